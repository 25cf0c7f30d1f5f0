// Package hardware translates the configuration of virtual machines as vSphere's API tells it to libvirt's domain XML, and domains to
// specifications that make or change a machine.
//
// Both ways go through the entries of a .vmx file: the API's devices are written as the entries that a host writes for them into the
// machine's file, and what libvirt's own driver reads from that file is read by the same code, package vmx; a definition becomes entries
// first and then devices. So there is one set of rules for controllers, models, MAC addresses and names of files.
//
// A change compares what the entries of the present machine and of the new definition say, device by device, and touches what differs.
// A disk is known by its place on its bus, a network card by its MAC address, a port by its number. What libvirt has no element for stays
// as it is. The image of a disk that is taken away stays.
//
// A drive that is connected to a client's computer is an empty drive here; libvirt's own driver leaves it out.
//
// All functions are pure and safe concurrently; they keep no reference to their arguments, except that a specification shares what it does
// not change with the configuration that it was made from. Errors are verr errors: ConfigUnsupported for an element that ESX has nothing
// for, by its name, and those of package vmx.
package hardware
