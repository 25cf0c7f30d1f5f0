// Package vmx translates VMware's .vmx configuration files to libvirt's domain XML and back, for the ESX driver's definitions and for
// the native format "vmware-vmx" of virsh domxml-from-native and domxml-to-native.
//
// A file is first read into a File, which knows nothing of domains: keys without regard to case, values with their |XX escapes
// resolved, bounded in size. Parse reads a domain from it, Format writes one; what only the host knows, where datastores are and which
// hardware version it runs, comes in a Context. Keys that libvirt has no element for are not kept: a driver that changes a machine
// changes it at the host, not in its file.
//
// All functions are pure and safe concurrently, as far as the functions of the Context are. Errors are verr errors: code 31
// (VIR_ERR_CONF_SYNTAX) for text that is no .vmx file, Internal for an entry whose value its key cannot have, XMLError for text that is no
// domain, ConfigUnsupported for a domain or a machine that the other side cannot express. They name the key or the element.
//
// Keys and values are those of VMware's own files and of https://libvirt.org/drvesx.html, which also tells the rules for MAC addresses.
package vmx
