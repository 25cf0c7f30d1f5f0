// Package peer runs real libvirt daemons, and ours beside them, in a jail of their own, for tests and the benchmark.
//
// A jail is a process in its own mount namespace, and the subreaper of all that is started in it: orphaned guests become its children,
// are reaped at once, and end with it. It is this very program, started once more; a program or test binary that uses
// the package calls RunJail first of all. A Libvirt is a jail in which folders stand in for libvirt's own, so that a
// libvirtd with its usual paths neither sees nor touches the machine's.
//
// Whoever enters a jail closes it. The jail also ends when its owner does, in whatever way: its standard input ends then, and it kills
// all of its children, by their numbers. Mounts that were made in it go with it. Methods of Jail are safe concurrently; those of
// Libvirt are for one goroutine. Nothing here waits without a deadline.
package peer
