package vmx

import (
	"fmt"
	"math"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func writeGraphics(w *writer, d *libvirtxml.Domain) {
	if d.Devices == nil || len(d.Devices.Graphics) == 0 {
		return
	}
	vnc := d.Devices.Graphics[0].VNC
	if len(d.Devices.Graphics) > 1 || vnc == nil {
		w.unsupported("Unsupported graphics type or number of elements <graphics>, expecting one of type 'vnc'")
		return
	}
	w.set("RemoteDisplay.vnc.enabled", true)
	if vnc.AutoPort != "yes" && vnc.Port > 0 {
		w.set("RemoteDisplay.vnc.port", vnc.Port)
	}
	listen := vnc.Listen
	for _, l := range vnc.Listeners {
		if l.Address != nil && l.Address.Address != "" {
			listen = l.Address.Address
		}
	}
	for _, e := range []Entry{{"ip", listen}, {"keymap", vnc.Keymap}, {"password", vnc.Passwd}} {
		if e.Value != "" {
			w.set("RemoteDisplay.vnc."+e.Key, e.Value)
		}
	}
}

func writeVideo(w *writer, d *libvirtxml.Domain) {
	videos := d.Devices.Videos
	if len(videos) == 0 {
		// libvirt gives every machine with a screen a video device.
		if len(d.Devices.Graphics) > 0 {
			w.set("svga.vramSize", defaultVRAM<<10)
		}
		return
	}
	m := videos[0].Model
	switch {
	case len(videos) > 1:
		w.unsupported("No support for multiple video devices")
	case m.Type != "" && m.Type != "vmvga":
		w.unsupported("Unsupported video device type '%s'", m.Type)
	case m.Heads > 1:
		w.unsupported("Multi-head video devices are unsupported")
	case m.VRam > math.MaxUint32>>10:
		w.unsupported("Video memory of %d KiB in element <video> is too large", m.VRam)
	case m.VRam == 0:
		w.set("svga.vramSize", defaultVRAM<<10)
	default:
		w.set("svga.vramSize", uint64(m.VRam)<<10)
	}
}

func writeFolders(w *writer, d *libvirtxml.Domain) {
	folders := d.Devices.Filesystems
	if len(folders) == 0 {
		return
	}
	if len(folders) > maxFolders {
		w.unsupported("%d elements <filesystem> are more than %d", len(folders), maxFolders)
		return
	}
	w.set("isolation.tools.hgfs.disable", false)
	w.set("sharedFolder.maxNum", len(folders))
	for n := range folders {
		fs := &folders[n]
		if fs.Source == nil || fs.Source.Mount == nil {
			w.unsupported("Only '%s' filesystem type is supported", "mount")
			return
		}
		if fs.Target == nil {
			w.fail(verr.New(verr.XMLError, "missing element <target> of a filesystem"))
			return
		}
		key := fmt.Sprintf("sharedFolder%d", n)
		w.set(key+".present", true)
		w.set(key+".enabled", true)
		w.set(key+".readAccess", true)
		w.set(key+".writeAccess", fs.ReadOnly == nil)
		w.set(key+".hostPath", fs.Source.Mount.Dir)
		w.set(key+".guestName", fs.Target.Dir)
	}
}
