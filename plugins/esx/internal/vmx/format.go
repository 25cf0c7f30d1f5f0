package vmx

import (
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// vmciVersion is the hardware version from which on a machine has a VMCI device and, for its SCSI controllers, PCI bridges.
const vmciVersion = 7

// writer writes the entries of a domain. It keeps the first error, as reader does.
type writer struct {
	file *File
	ctx  Context
	err  error
}

// fail keeps an error.
func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// unsupported keeps the error for what VMware does not have.
func (w *writer) unsupported(format string, args ...any) {
	w.fail(verr.New(verr.ConfigUnsupported, format, args...))
}

// set writes an entry; a bool becomes "true" or "false".
func (w *writer) set(key string, value any) { w.file.Set(key, fmt.Sprint(value)) }

// source translates libvirt's name of a file.
func (w *writer) source(element, source string) string {
	file, err := w.ctx.Names.File(source)
	if err != nil {
		w.fail(verr.New(verr.Internal, "%s: %w", element, err))
	}
	return file
}

// Format writes a domain as a .vmx file. It fails with XMLError for text that is no domain and with ConfigUnsupported or Internal, as
// libvirt does, for what VMware's machines do not have.
func Format(domainXML string, ctx Context) (string, error) {
	d, err := domxml.Parse(domainXML)
	if err != nil {
		return "", err
	}
	if err := domxml.Complete(d); err != nil {
		return "", err
	}
	file, err := NewFile(d, ctx)
	if err != nil {
		return "", err
	}
	return file.String(), nil
}

// NewFile writes a completed domain, which it may change, as entries. It fails as Format does.
func NewFile(d *libvirtxml.Domain, ctx Context) (*File, error) {
	if ctx.HardwareVersion == 0 {
		ctx.HardwareVersion = oldestVersion
	}
	if ctx.HardwareVersion < oldestVersion {
		return nil, verr.New(verr.Internal, "Hardware version %d is older than %d", ctx.HardwareVersion, oldestVersion)
	}
	if d.Type != "vmware" {
		return nil, verr.New(verr.Internal, "Expecting virt type to be 'vmware' but found '%s'", d.Type)
	}
	w := &writer{file: &File{}, ctx: ctx}
	w.set(encodingKey, encodingUTF8)
	w.set("config.version", configVersion)
	w.set("virtualHW.version", ctx.HardwareVersion)
	steps := []func(*writer, *libvirtxml.Domain){
		writeOS, writeIdentity, writeMemory, writeCPU, writeGraphics, writeDisks, writeFolders,
		writeInterfaces, writeVideo, writeSerials, writeParallels, writeBridges,
	}
	for _, step := range steps {
		step(w, d)
		if w.err != nil {
			return nil, w.err
		}
	}
	return w.file, nil
}

// writeBridges writes what newer hardware has by itself.
func writeBridges(w *writer, d *libvirtxml.Domain) {
	if w.ctx.HardwareVersion < vmciVersion {
		return
	}
	if slices.ContainsFunc(w.file.entries, func(e Entry) bool {
		return strings.HasPrefix(e.Key, "scsi") && strings.HasSuffix(e.Key, ".present")
	}) {
		w.set("pciBridge0.present", true)
		for n := 4; n <= 7; n++ {
			key := fmt.Sprintf("pciBridge%d", n)
			w.set(key+".present", true)
			w.set(key+".virtualDev", "pcieRootPort")
			w.set(key+".functions", 8)
		}
	}
	w.set("vmci0.present", true)
}
