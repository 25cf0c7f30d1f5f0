// Package libiscsi is the initiator of libiscsi, https://github.com/sahlberg/libiscsi, and holds all of the driver's code in C.
//
// It is built with the tag "libiscsi" and cgo; without them it is there and says that it cannot be used. The library is only used by its
// functions that do not wait: this package waits itself, for the session's socket, the context and the time-out, so that a thread is
// held by a session for a tenth of a second at most after its end. A session that does not answer in time is closed, and with it all that
// it waits for. Names of servers are resolved in Go, as the library would wait for that.
package libiscsi
