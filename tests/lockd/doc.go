// Package lockd speaks with a lock daemon for tests and the benchmark: with libvirt's virtlockd in its program, and with ours in its own one too.
// It also starts ours, ends it in every way, and looks at locks from a process of its own, without touching them.
//
// It shares no code with the daemon, so that a mistake in it is not made twice. A Client is for one goroutine; so are a Daemon and an
// Eye. Whoever has one closes it. Every call has a deadline.
package lockd
