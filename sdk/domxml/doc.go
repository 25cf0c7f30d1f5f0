// Package domxml reads, completes, edits and prints libvirt's domain XML for the core and for drivers.
//
// Text that comes from outside is always read by one strict scanner first: it refuses document types, entities, processing
// instructions, undefined references, bad nesting and anything over its limits (4 MiB, 64 levels, 65536 elements, 128
// attributes an element), and it needs memory in proportion to the text at most. What it has passed is given to
// libvirt.org/go/libvirtxml for the typed form. Edits of stored definitions (name, metadata, secrets) work on the text, so that
// what the typed form does not know is kept.
//
// Printed text looks as libvirt prints it: single quotes, two spaces a level, empty elements closed in place, a newline at the
// end; inside <metadata> double quotes, as libvirt's clients know it. Printing printed text returns the same text.
//
// All functions are pure and safe concurrently. Errors are verr errors with libvirt's codes: XMLError (27) for text that is no
// well-formed domain, with the line; ConfigUnsupported (67) for values that are not known.
//
// The format is described at https://libvirt.org/formatdomain.html.
package domxml
