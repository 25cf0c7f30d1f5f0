package cmdline

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func (b *builder) boot() error {
	o := options{}
	if m := b.d.OS.BootMenu; m != nil && m.Enable != "" {
		o.add("menu=" + map[string]string{"yes": "on", "no": "off"}[m.Enable])
		if m.Timeout != "" {
			o.add("splash-time=" + escape(m.Timeout))
		}
	}
	if bios := b.d.OS.BIOS; bios != nil && bios.RebootTimeout != nil {
		o.add(fmt.Sprintf("reboot-timeout=%d", *bios.RebootTimeout))
	}
	o.add("strict=on")
	b.arg("-boot", o.String())
	b.boots = map[string]int{}
	for i, d := range b.d.OS.BootDevices {
		if b.boots[d.Dev] == 0 {
			b.boots[d.Dev] = i + 1
		}
	}
	for _, f := range []struct{ option, value string }{
		{"-kernel", b.d.OS.Kernel}, {"-initrd", b.d.OS.Initrd}, {"-append", b.d.OS.Cmdline}, {"-dtb", b.d.OS.DTB},
	} {
		if f.value != "" {
			b.arg(f.option, f.value)
		}
	}
	if b.d.OS.Cmdline != "" && b.d.OS.Kernel == "" {
		return verr.New(verr.XMLError, "a kernel command line needs a <kernel>")
	}
	return nil
}

// setBoot adds the boot index of a device: its own order, or that of its class if it is the first.
func (b *builder) setBoot(p props, own *libvirtxml.DomainDeviceBoot, class string) {
	if own != nil {
		p["bootindex"] = own.Order
		return
	}
	if n := b.boots[class]; n != 0 {
		p["bootindex"] = n
		delete(b.boots, class)
	}
}

// firmwareKinds are the interface types of firmware descriptors by libvirt's names.
var firmwareKinds = map[string]string{"efi": "uefi", "bios": "bios"}

// firmware writes the flash images of UEFI, or the BIOS that the definition names.
func (b *builder) firmware() error {
	os := b.d.OS
	if kind, ok := firmwareKinds[os.Firmware]; ok {
		if err := b.selectFirmware(kind); err != nil {
			return err
		}
	}
	l := os.Loader
	if l == nil || l.Path == "" {
		return nil
	}
	if l.Type != "pflash" {
		b.arg("-bios", l.Path)
		return nil
	}
	format := l.Format
	if format == "" {
		format = "raw"
	}
	if err := b.flash(0, l.Path, format, true); err != nil {
		return err
	}
	if os.NVRam == nil {
		os.NVRam = &libvirtxml.DomainNVRam{}
	}
	if l.Stateless == "yes" {
		return nil
	}
	return b.variables(l.Path, os.NVRam)
}

// variables makes the guest's own store of UEFI variables from a template.
func (b *builder) variables(code string, n *libvirtxml.DomainNVRam) error {
	if n.Template == "" {
		for _, f := range b.plan.Env.Firmware {
			if f.Executable == code {
				n.Template = f.NVRAMTemplate
			}
		}
	}
	target := strings.TrimSpace(n.NVRam)
	if n.Source != nil {
		if n.Source.File == nil {
			return unsupported("nvram source that is not a file is not supported")
		}
		target = n.Source.File.File
	}
	if target == "" {
		target = filepath.Join(b.plan.StateDir, "nvram", b.d.UUID+"_VARS.fd")
		b.cmd.Folders = append(b.cmd.Folders, filepath.Dir(target))
		n.NVRam = target
	}
	if n.Template != "" {
		b.cmd.Copies = append(b.cmd.Copies, Copy{From: n.Template, To: target})
	}
	format := n.Format
	if format == "" {
		format = "raw"
	}
	return b.flash(1, target, format, false)
}

func (b *builder) flash(n int, file, format string, readOnly bool) error {
	storage := fmt.Sprintf("libvirt-pflash%d-storage", n)
	err := b.json("-blockdev", props{
		"driver": "file", "filename": file, "node-name": storage, "auto-read-only": true, "discard": "unmap",
	})
	if err != nil {
		return err
	}
	return b.json("-blockdev", props{
		"node-name": fmt.Sprintf("libvirt-pflash%d-format", n), "read-only": readOnly, "driver": format, "file": storage,
	})
}

// pflash lists the machine's properties for the flash images.
func (b *builder) pflash() options {
	var o options
	l := b.d.OS.Loader
	if l == nil || l.Path == "" || l.Type != "pflash" {
		return o
	}
	o.add("pflash0=libvirt-pflash0-format")
	if l.Stateless != "yes" {
		o.add("pflash1=libvirt-pflash1-format")
	}
	if l.Secure == "yes" {
		b.arg("-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return o
}

func (b *builder) needsSMM() bool { return b.d.OS.Loader != nil && b.d.OS.Loader.Secure == "yes" }

// selectFirmware picks the first installed firmware of a kind that fits, and writes it into the live definition.
func (b *builder) selectFirmware(kind string) error {
	for _, f := range b.plan.Env.Firmware {
		if !slices.Contains(f.Interfaces, kind) || !b.fits(f) {
			continue
		}
		l := b.d.OS.Loader
		if l == nil {
			l = &libvirtxml.DomainLoader{}
			b.d.OS.Loader = l
		}
		l.Path = f.Executable
		if kind == "bios" {
			l.Type = "rom"
			return nil
		}
		l.Readonly, l.Type = "yes", "pflash"
		if f.Format != "raw" {
			l.Format = f.Format
		}
		if f.Has("requires-smm") {
			l.Secure = "yes"
		}
		if b.d.OS.NVRam == nil {
			b.d.OS.NVRam = &libvirtxml.DomainNVRam{}
		}
		if b.d.OS.NVRam.Template == "" {
			b.d.OS.NVRam.Template = f.NVRAMTemplate
		}
		return nil
	}
	return verr.New(verr.OperationFailed, "Unable to find any firmware to satisfy '%s'", b.d.OS.Firmware)
}

// fits reports whether a firmware suits the machine and has the features that the definition asks for.
func (b *builder) fits(f define.Firmware) bool {
	arch := b.d.OS.Type.Arch
	if arch == "i686" {
		arch = "i386"
	}
	if !slices.ContainsFunc(f.Machines[arch], func(pattern string) bool {
		ok, err := path.Match(pattern, b.d.OS.Type.Machine)
		return ok && err == nil
	}) {
		return false
	}
	if l := b.d.OS.Loader; l != nil && l.Secure != "" && (l.Secure == "yes") != f.Has("requires-smm") {
		return false
	}
	if f.Has("requires-smm") && (!b.q35 || b.smmOff()) {
		return false
	}
	if b.d.OS.FirmwareInfo != nil {
		for _, want := range b.d.OS.FirmwareInfo.Features {
			if want.Enabled != "" && f.Has(want.Name) != (want.Enabled == "yes") {
				return false
			}
		}
	}
	return true
}

func (b *builder) smmOff() bool {
	return b.d.Features != nil && b.d.Features.SMM != nil && b.d.Features.SMM.State == "off"
}

// smbiosTypes are the tables that <sysinfo> fills, with QEMU's keys for libvirt's entry names.
var smbiosTypes = []struct {
	number int
	keys   map[string]string
}{
	{0, map[string]string{"vendor": "vendor", "version": "version", "date": "date", "release": "release"}},
	{1, map[string]string{
		"manufacturer": "manufacturer", "product": "product", "version": "version", "serial": "serial", "uuid": "uuid",
		"sku": "sku", "family": "family",
	}},
	{2, map[string]string{
		"manufacturer": "manufacturer", "product": "product", "version": "version", "serial": "serial", "asset": "asset",
		"location": "location",
	}},
	{3, map[string]string{
		"manufacturer": "manufacturer", "version": "version", "serial": "serial", "asset": "asset", "sku": "sku",
	}},
}

func (b *builder) smbios() error {
	mode := ""
	if b.d.OS.SMBios != nil {
		mode = b.d.OS.SMBios.Mode
	}
	if mode == "host" {
		return unsupported("smbios mode 'host' is not supported")
	}
	for _, s := range b.d.SysInfo {
		if s.FWCfg != nil {
			b.fwcfg(s.FWCfg)
		}
		if s.SMBIOS == nil || mode != "sysinfo" {
			continue
		}
		if err := b.smbiosTables(s.SMBIOS); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) smbiosTables(s *libvirtxml.DomainSysInfoSMBIOS) error {
	tables := make([][][]libvirtxml.DomainSysInfoEntry, len(smbiosTypes))
	if s.BIOS != nil {
		tables[0] = append(tables[0], s.BIOS.Entry)
	}
	if s.System != nil {
		tables[1] = append(tables[1], s.System.Entry)
	}
	for _, board := range s.BaseBoard {
		tables[2] = append(tables[2], board.Entry)
	}
	if s.Chassis != nil {
		tables[3] = append(tables[3], s.Chassis.Entry)
	}
	for i, list := range tables {
		t := smbiosTypes[i]
		for _, entries := range list {
			o := options{fmt.Sprintf("type=%d", t.number)}
			for _, e := range entries {
				key, ok := t.keys[e.Name]
				if !ok {
					return unsupported("sysinfo entry '%s' is not supported", e.Name)
				}
				o.add(key + "=" + escape(e.Value))
			}
			b.arg("-smbios", o.String())
		}
	}
	if s.OEMStrings != nil {
		o := options{"type=11"}
		for _, v := range s.OEMStrings.Entry {
			o.add("value=" + escape(v))
		}
		b.arg("-smbios", o.String())
	}
	return nil
}

func (b *builder) fwcfg(f *libvirtxml.DomainSysInfoFWCfg) {
	for _, e := range f.Entry {
		value := ",string=" + escape(e.Value)
		if e.File != "" {
			value = ",file=" + escape(e.File)
		}
		b.arg("-fw_cfg", "name="+escape(e.Name)+value)
	}
}
