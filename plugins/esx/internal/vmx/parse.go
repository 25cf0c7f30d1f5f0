package vmx

import (
	"regexp"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Namespace of the elements that libvirt has for VMware's hosts only.
const namespace = "http://libvirt.org/schemas/domain/vmware/1.0"

// ToXML reads a .vmx file and prints the domain as libvirt does. It fails as Parse does.
func ToXML(text string, ctx Context) (string, error) {
	d, err := Parse(text, ctx)
	if err != nil {
		return "", err
	}
	return Print(d)
}

// Print prints a domain that Parse or File.Domain has read, which it may change, as libvirt does.
func Print(d *libvirtxml.Domain) (string, error) {
	path := d.VMWareDataCenterPath
	d.VMWareDataCenterPath = nil
	doc, err := domxml.Format(d)
	if err != nil {
		return "", err
	}
	doc = amendSources(doc, d.Devices.Interfaces)
	if path == nil {
		return doc, nil
	}
	// The typed form has the namespace at the element, libvirt's clients look for the prefix at the root.
	doc = strings.Replace(doc, ">", " xmlns:vmware='"+namespace+"'>", 1)
	doc = strings.TrimSuffix(doc, "</domain>\n")
	return domxml.Reformat(doc + "<vmware:datacenterpath>" + escapeText(path.Value) + "</vmware:datacenterpath></domain>")
}

// amendSources prints the sources of interfaces as libvirt does where the typed form cannot: none for those that are connected to nothing,
// and port and connection of a distributed switch even if they are 0.
func amendSources(doc string, nics []libvirtxml.DomainInterface) string {
	distributed := false
	for _, nic := range nics {
		if nic.Source.Null != nil {
			doc = strings.Replace(doc, "\n      <source/>", "", 1)
		}
		distributed = distributed || nic.Source.VDS != nil
	}
	if !distributed {
		return doc
	}
	return distributedSource.ReplaceAllStringFunc(doc, func(source string) string {
		parts := distributedSource.FindStringSubmatch(source)
		if parts[2] == "" {
			parts[2] = " portid='0'"
		}
		if parts[4] == "" {
			parts[4] = " connectionid='0'"
		}
		return parts[1] + parts[2] + parts[3] + parts[4] + "/>"
	})
}

// distributedSource is a port of a distributed switch as the typed form prints it: without what is 0.
var distributedSource = regexp.MustCompile(`(<source switchid='[^']*')( portid='[^']*')?( portgroupid='[^']*')?( connectionid='[^']*')?/>`)

// escapeText escapes what has a meaning in the text of an element.
func escapeText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// Parse reads a domain from a .vmx file. It fails with VIR_ERR_CONF_SYNTAX for text that is no such file, with Internal for entries with
// values that they cannot have, and with ConfigUnsupported for what libvirt has no element for.
func Parse(text string, ctx Context) (*libvirtxml.Domain, error) {
	file, err := ParseFile(text)
	if err != nil {
		return nil, err
	}
	return file.Domain(ctx)
}

// Domain reads a domain from a file. It fails as Parse does.
func (f *File) Domain(ctx Context) (*libvirtxml.Domain, error) {
	r := &reader{file: f, ctx: ctx}
	d := &libvirtxml.Domain{
		Type:       "vmware",
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{},
	}
	if ctx.DatacenterPath != "" {
		d.VMWareDataCenterPath = &libvirtxml.DomainVMWareDataCenterPath{Value: ctx.DatacenterPath}
	}
	steps := []func(*reader, *libvirtxml.Domain){
		readVersions, readIdentity, readMemory, readCPU, readOS,
		readGraphics, readDisks, readFolders, readInterfaces, readVideo, readSerials, readParallels,
	}
	for _, step := range steps {
		step(r, d)
		if r.err != nil {
			return nil, r.err
		}
	}
	return d, nil
}

// configVersion is the only version of the files' format; the oldest virtual hardware is that of ESX 3.
const (
	configVersion = 8
	oldestVersion = 4
)

func readVersions(r *reader, _ *libvirtxml.Domain) {
	r.must("config.version")
	if r.number("config.version", configVersion) != configVersion {
		r.expect("config.version", "8")
	}
	r.must("virtualHW.version")
	if r.number("virtualHW.version", oldestVersion) < oldestVersion {
		r.fail(verr.New(verr.ConfigUnsupported, "VMX entry 'virtualHW.version' is %s, 4 is the oldest that is supported",
			r.text("virtualHW.version")))
	}
}
