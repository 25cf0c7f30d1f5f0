// Package rig runs a private host for tests, the demo and the benchmark: the built daemons with everything under one
// folder, stock virsh and go-libvirt against its socket, SIGKILL for any of its daemons, a small Linux guest that counts,
// and a probe that watches a lock from another process.
//
// A Host owns the core's process and nothing else: plugins, the lock daemon and guests are nobody's child, and are
// found by the folder that their command line or environment names. Stop ends the core orderly; Close ends whatever is
// left, guests included, so a failed test leaves nothing behind. Methods of Host are safe concurrently, except that Start, Stop
// and Close are for one goroutine. Nothing here waits without a deadline.
package rig
