// Package guard ends the guests whose locks somebody else may have when nobody else is there to do it.
//
// A lock in etcd lives as long as its host renews its lease. A guest does not depend on that: if plugin and core are dead or stuck for
// longer than the lease lives, another host gets the disk while the guest here goes on writing. So there is a guard: a process of the
// plugin's own binary, in a session of its own, which outlives the plugin. It knows the processes of the guests that hold locks, by
// pidfd, and kills them at the deadline: the end of the lease less a margin. Every renewal moves the deadline, through a page of
// memory that plugin and guard share (Page). Guests whose definition says that they go on without the lock are spared.
//
// The guard also renews the lease when the plugin is behind with it, since a plugin that is away is no reason to end a guest. It
// does not need to be told: the page shows that a renewal is overdue. So the locks of a guest are held for as long as it lives and the
// cluster answers, whether there is a core or not, and the guard kills only when etcd cannot be reached, or the machine was suspended.
//
// It kills with SIGKILL and does not stop first. A process that is stopped has as much in flight as one that was killed: what was
// handed to the kernel goes on either way, and a SIGKILL ends the waiting for it earlier. Stopping would only take from the core the
// means to pause or end the guest in an orderly way, which it has been told to do since a third of the lease's time was left.
//
// A guard ends by itself once it has had no guest for a while. Of two only one can be: it holds a lock on a file beside its socket.
// When it dies, the plugin starts the next one at once and tells it of all guests. When both die in the same moment, the guests are
// unguarded until the core has started the plugin again, which takes the guests from its own records before anything else.
//
// Guard is the process; Post is the plugin's end, which keeps one running. Post's methods are safe concurrently.
package guard
