package vmx

import (
	"fmt"
	"math"

	"libvirt.org/go/libvirtxml"
)

// Bounds of what is shared and shown; the video memory is in KiB.
const (
	maxFolders  = 1 << 10
	defaultVRAM = 4096
)

func readGraphics(r *reader, d *libvirtxml.Domain) {
	if !r.flag("RemoteDisplay.vnc.enabled", false) {
		return
	}
	vnc := &libvirtxml.DomainGraphicVNC{
		Keymap: r.text("RemoteDisplay.vnc.keymap"), Passwd: r.text("RemoteDisplay.vnc.password"),
		Listen: r.text("RemoteDisplay.vnc.ip"),
	}
	vnc.Port, vnc.AutoPort = int(r.within("RemoteDisplay.vnc.port", -1, -1, math.MaxUint16)), "no"
	if vnc.Port < 0 {
		vnc.AutoPort = "yes"
	}
	vnc.Listeners = []libvirtxml.DomainGraphicListener{{Address: &libvirtxml.DomainGraphicListenerAddress{Address: vnc.Listen}}}
	d.Devices.Graphics = []libvirtxml.DomainGraphic{{VNC: vnc}}
	// libvirt gives every machine with a screen a mouse and a keyboard.
	d.Devices.Inputs = []libvirtxml.DomainInput{{Type: "mouse", Bus: "ps2"}, {Type: "keyboard", Bus: "ps2"}}
}

func readVideo(r *reader, d *libvirtxml.Domain) {
	vram := uint(defaultVRAM)
	if size := r.within("svga.vramSize", 0, 0, math.MaxUint32); size > 0 {
		vram = uint((size + 1023) >> 10)
	}
	d.Devices.Videos = []libvirtxml.DomainVideo{{
		Model: libvirtxml.DomainVideoModel{Type: "vmvga", VRam: vram, Primary: "yes"},
	}}
}

func readFolders(r *reader, d *libvirtxml.Domain) {
	if r.flag("isolation.tools.hgfs.disable", true) {
		return
	}
	for n := range r.within("sharedFolder.maxNum", 0, 0, maxFolders) {
		key := fmt.Sprintf("sharedFolder%d", n)
		if !r.flag(key+".present", false) || !r.flag(key+".enabled", false) {
			continue
		}
		fs := libvirtxml.DomainFilesystem{
			AccessMode: "passthrough",
			Source: &libvirtxml.DomainFilesystemSource{
				Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: r.must(key + ".hostPath")},
			},
			Target: &libvirtxml.DomainFilesystemTarget{Dir: r.must(key + ".guestName")},
		}
		if !r.flag(key+".writeAccess", false) {
			fs.ReadOnly = &libvirtxml.DomainFilesystemReadOnly{}
		}
		d.Devices.Filesystems = append(d.Devices.Filesystems, fs)
	}
}
