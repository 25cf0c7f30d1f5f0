package define

import (
	"libvirt.org/go/libvirtxml"
)

// inputBuses are the buses that each kind of input device has.
var inputBuses = map[string][]string{
	"tablet": {"usb", "virtio"}, "mouse": {"ps2", "usb", "virtio"}, "keyboard": {"ps2", "usb", "virtio"},
	"passthrough": {"virtio"}, "evdev": {""},
}

func completeInputs(c *completion) error {
	for i := range c.dev.Inputs {
		in := &c.dev.Inputs[i]
		buses, ok := inputBuses[in.Type]
		if !ok {
			return malformed("unknown input device type '%s'", in.Type)
		}
		if in.Bus == "" {
			in.Bus = defaultInputBus(in)
		}
		known := false
		for _, b := range buses {
			known = known || b == in.Bus
		}
		if !known {
			return unsupported("%s bus does not support %s input device", in.Bus, in.Type)
		}
	}
	for _, kind := range []string{"mouse", "keyboard"} {
		c.addPS2(kind)
	}
	return nil
}

func defaultInputBus(in *libvirtxml.DomainInput) string {
	switch {
	case in.Type == "evdev":
		return ""
	case in.Type == "passthrough", in.Address != nil && in.Address.PCI != nil:
		return "virtio"
	case in.Address != nil && in.Address.USB != nil, in.Type == "tablet":
		return "usb"
	}
	return "ps2"
}

// addPS2 adds the device that the machine's PS/2 controller always has.
func (c *completion) addPS2(kind string) {
	if f := c.d.Features; f != nil && f.PS2 != nil && f.PS2.State == "off" {
		return
	}
	for _, in := range c.dev.Inputs {
		if in.Type == kind && in.Bus == "ps2" {
			return
		}
	}
	c.dev.Inputs = append(c.dev.Inputs, libvirtxml.DomainInput{Type: kind, Bus: "ps2"})
}

func completeGraphics(c *completion) error {
	for i := range c.dev.Graphics {
		if err := completeGraphic(&c.dev.Graphics[i]); err != nil {
			return err
		}
	}
	return nil
}

func completeGraphic(g *libvirtxml.DomainGraphic) error {
	switch {
	case g.VNC != nil:
		return completeVNC(g.VNC)
	case g.Spice != nil:
		return completeSpice(g.Spice)
	case g.SDL != nil, g.EGLHeadless != nil, g.DBus != nil:
		return nil
	}
	return unsupported("graphics of this type are not supported by QEMU")
}

func completeVNC(v *libvirtxml.DomainGraphicVNC) error {
	if err := completeListeners(&v.Listeners, &v.Listen, v.Socket); err != nil {
		return err
	}
	if usesSocket(v.Listeners) {
		v.Port, v.AutoPort, v.Listen = 0, "", ""
		v.Socket = v.Listeners[0].Socket.Socket
		return nil
	}
	if v.Port < 0 || (v.Port == 0 && v.AutoPort == "") {
		v.Port, v.AutoPort = -1, "yes"
	}
	if v.AutoPort == "yes" {
		v.Port = -1
	} else if v.Port > 0 {
		v.AutoPort = "no"
	}
	if v.Port > 65535 || (v.Port > 0 && v.Port < vncBase) {
		return unsupported("VNC port must be in range [%d,65535]", vncBase)
	}
	return nil
}

// vncBase is the port of VNC's display 0.
const vncBase = 5900

func completeSpice(s *libvirtxml.DomainGraphicSpice) error {
	if err := completeListeners(&s.Listeners, &s.Listen, ""); err != nil {
		return err
	}
	if usesSocket(s.Listeners) {
		s.Port, s.TLSPort, s.AutoPort = 0, 0, ""
		return nil
	}
	if s.Port < 0 && s.TLSPort <= 0 {
		s.AutoPort = "yes"
	}
	if s.AutoPort == "yes" {
		s.Port, s.TLSPort = 0, 0
	}
	if s.AutoPort == "" && s.Port == 0 && s.TLSPort == 0 {
		if len(s.Listeners) == 1 && s.Listeners[0].Address != nil && s.Listeners[0].Address.Address == "" {
			s.Listeners = []libvirtxml.DomainGraphicListener{{}}
		}
		return nil
	}
	if s.AutoPort == "" {
		s.AutoPort = "no"
	}
	if s.Port > 65535 || s.TLSPort > 65535 {
		return malformed("spice port is out of range")
	}
	return nil
}

// completeListeners makes the listen attribute and the first listen element say the same.
func completeListeners(list *[]libvirtxml.DomainGraphicListener, listen *string, socket string) error {
	if len(*list) > 1 {
		return unsupported("only one listen element per graphics device is supported")
	}
	if len(*list) == 0 {
		l := libvirtxml.DomainGraphicListener{Address: &libvirtxml.DomainGraphicListenerAddress{Address: *listen}}
		if socket != "" {
			l = libvirtxml.DomainGraphicListener{Socket: &libvirtxml.DomainGraphicListenerSocket{Socket: socket}}
		}
		*list = []libvirtxml.DomainGraphicListener{l}
	}
	a := (*list)[0].Address
	if a == nil {
		return nil
	}
	if *listen != "" && a.Address != "" && *listen != a.Address {
		return malformed("graphics 'listen' attribute '%s' must match 'address' attribute of first listen element (found '%s')",
			*listen, a.Address)
	}
	orDefault(&a.Address, *listen)
	*listen = a.Address
	return nil
}

func usesSocket(list []libvirtxml.DomainGraphicListener) bool {
	return len(list) == 1 && list[0].Socket != nil
}

// videoDefaults are the sizes that libvirt shows for a model, in KiB.
var videoDefaults = map[string]libvirtxml.DomainVideoModel{
	"vga": {VRam: 16384, Heads: 1}, "cirrus": {VRam: 16384, Heads: 1}, "vmvga": {VRam: 16384, Heads: 1},
	"bochs": {VRam: 16384, Heads: 1}, "virtio": {Heads: 1}, "ramfb": {Heads: 1}, "none": {},
	"qxl": {Ram: 65536, VRam: 65536, VGAMem: 16384, Heads: 1},
}

func completeVideo(c *completion) error {
	if len(c.dev.Videos) == 0 && len(c.dev.Graphics) > 0 {
		c.dev.Videos = []libvirtxml.DomainVideo{{}}
	}
	primary := -1
	for i := range c.dev.Videos {
		m := &c.dev.Videos[i].Model
		if m.Type == "" || m.Type == "default" {
			m.Type = c.defaultVideo()
		}
		def, ok := videoDefaults[m.Type]
		if !ok {
			return unsupported("domain configuration does not support video model '%s'", m.Type)
		}
		if m.Type == "ramfb" && c.dev.Videos[i].Address != nil {
			return malformed("'address' is not supported for 'ramfb' video devices")
		}
		if m.Type == "none" && len(c.dev.Videos) > 1 {
			return unsupported("a 'none' video type must be the only video device defined for the domain")
		}
		if m.Primary == "yes" {
			if primary >= 0 {
				return malformed("Only one primary video device is supported")
			}
			primary = i
		}
		if m.Primary == "no" {
			m.Primary = ""
		}
		setVideoSizes(m, def)
	}
	if len(c.dev.Videos) == 0 || c.dev.Videos[0].Model.Type == "none" {
		return nil
	}
	if primary > 0 {
		v := c.dev.Videos[primary]
		copy(c.dev.Videos[1:primary+1], c.dev.Videos[:primary])
		c.dev.Videos[0] = v
	}
	c.dev.Videos[0].Model.Primary = "yes"
	return nil
}

func setVideoSizes(m *libvirtxml.DomainVideoModel, def libvirtxml.DomainVideoModel) {
	for _, f := range []struct {
		value *uint
		def   uint
	}{{&m.Ram, def.Ram}, {&m.VRam, def.VRam}, {&m.VGAMem, def.VGAMem}, {&m.Heads, def.Heads}} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
}

func (c *completion) defaultVideo() string {
	if c.env.HasDevice("cirrus-vga") {
		return "cirrus"
	}
	return "vga"
}

// completeAudio adds the backend that sound devices without one of their own use.
func completeAudio(c *completion) error {
	if len(c.dev.Audios) > 0 {
		return nil
	}
	a := libvirtxml.DomainAudio{ID: 1, None: &libvirtxml.DomainAudioNone{}}
	if n := len(c.dev.Graphics); n > 0 {
		if c.dev.Graphics[n-1].Spice != nil {
			a = libvirtxml.DomainAudio{ID: 1, SPICE: &libvirtxml.DomainAudioSPICE{}}
		}
	}
	c.dev.Audios = []libvirtxml.DomainAudio{a}
	return nil
}
