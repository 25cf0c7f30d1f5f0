// Package client speaks the protocol of the sanlock daemon over its unix socket, without libsanlock: each call is a connection of its own
// with one request, as the library makes them for other processes.
//
// The protocol is that of sanlock 2.0 to 3.8 (version 1 of it): a header of eight numbers of 32 bits, then structures as a C compiler
// with 64-bit alignment lays them out, in the byte order of the machine. Numbers and layouts are those of sanlock's headers sanlock.h,
// sanlock_admin.h, sanlock_resource.h and sanlock_rv.h, and of the messages that sanlock's own command sends.
//
// The daemon serves all of its clients from one thread, so a request is sent whole, and an answer is read at once. A call that the
// daemon has refused returns a Result; one that finds nobody at the socket returns ErrNotRunning. Whatever the daemon answers is read
// within bounds. All methods are safe concurrently, and end with their context.
package client
