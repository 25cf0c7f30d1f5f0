// Package manager is the lock manager for sanlock.
//
// sanlock keeps leases on shared storage. A host joins a lockspace, under a number of its own, and renews its membership there; a
// process that has connected to the daemon may have leases of the lockspace. When the process ends, the daemon gives its leases up. When the
// membership cannot be renewed, the daemon ends all processes that have leases, and the watchdog the host if that does not help, so
// that nobody writes any more by the time that other hosts take the leases over.
//
// So the daemon and the storage hold the locks, and this package only asks for them. What it keeps is who asked for what, in memory and
// in the core's State: the latter is written before a lease is taken and dropped after it was given up, so a successor of a process that
// was killed knows all that may be held. Whether it is held, only the daemon is believed.
//
// A guest's process registers itself, as the answer to Prepare says; Acquire then names its pid. The process registers a kill path,
// a program that does nothing, unless the guest is to be powered off anyhow: it has the daemon wait for its grace time where it would
// send a SIGTERM at once, and that is the time for the core to do to the guest what its definition says.
//
// One loop looks at the daemon every second: it has the host join the lockspace of disks and tells of leases that are being lost,
// before the daemon ends their owners. It waits for nothing but the daemon's answer, in bounds.
//
// All methods of Manager are safe concurrently. Calls for one owner take turns. Manager.mu is never held while anything waits.
package manager
