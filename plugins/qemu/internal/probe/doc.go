// Package probe learns what the installed QEMU binaries can do by asking them over their monitor, once for each binary.
//
// A Prober owns the answers: it remembers them in memory and, through the store that it was given, on disk, under the identity
// of the binary (path, size, times) and of what the answers depend on beside it (the kernel, whether KVM can be used). While
// that identity holds, a lookup costs one stat call. All methods are safe concurrently; of callers that ask for one binary at
// once, one questions it and all get its answer. Returned binaries are shared and must not be changed.
//
// A binary that does not start, does not answer in time or answers nonsense is an error that names it and repeats what it
// printed; nothing is remembered of it, so that the next call tries again. A store that fails costs only time. A QEMU that is
// being questioned has no guest, no devices and no files, ends with its question, and dies with this process.
package probe
