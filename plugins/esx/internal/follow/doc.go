// Package follow reads properties of an endpoint's objects and then what changes of them, past lost sessions and absences of the
// endpoint, for whoever keeps a picture of a part of its inventory.
//
// A Source says what is to be watched, takes in what comes and is told when the picture is whole. A Follower has one goroutine, which
// alone calls the source, one method at a time; Start starts it and Close waits for it, and so does the Close of the endpoint. Followers
// of one endpoint share its session and nothing else: each has a property collector of its own there, which is removed as far as the
// endpoint lets it.
//
// Whatever fails (the endpoint, the session, an update that the source refuses) ends a watch. The source is told, and after a pause that
// grows while nothing succeeds a new watch begins, with a reading from nothing.
package follow
