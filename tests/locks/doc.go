// Package locks tests the lock daemon as a whole, as a process: under a real libvirtd with real guests, against a model that knows what every lock must
// be, with cores that share a folder of locks, and under what should never happen but does.
//
// Everything runs in private folders, and what needs its own mounts in a jail (package peer). LODGE_LOCKS_SCALE multiplies how much is done,
// which by default is what fits into a few minutes. A test that draws lots prints its seed; LODGE_LOCKS_SEED repeats it.
package locks
