// Package capabilities says in libvirt's words what package probe has found: the <guest> elements of the capabilities document,
// the <cpu> of its host, domain capabilities documents, and the names of CPU models.
//
// Documents name what this driver does with QEMU, not all that QEMU could do: a client that believes them is not refused
// later. All functions are pure but for what they are given, and safe concurrently. What a client asked for wrongly is a verr error
// of code InvalidArg with libvirt's sentence; nothing else fails but printing.
//
// The documents are described at https://libvirt.org/formatcaps.html and https://libvirt.org/formatdomaincaps.html.
package capabilities
