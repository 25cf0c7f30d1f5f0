package cmdline

import (
	"fmt"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func (b *builder) graphics() error {
	seen := map[string]bool{}
	for i := range b.dev.Graphics {
		g := &b.dev.Graphics[i]
		kind, err := b.graphic(g)
		if err != nil {
			return err
		}
		if seen[kind] {
			return unsupported("only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported")
		}
		seen[kind] = true
	}
	return nil
}

func (b *builder) graphic(g *libvirtxml.DomainGraphic) (string, error) {
	switch {
	case g.VNC != nil:
		return "vnc", b.vnc(g.VNC)
	case g.Spice != nil:
		return "spice", b.spice(g.Spice)
	case g.EGLHeadless != nil:
		o := options{"egl-headless"}
		if gl := g.EGLHeadless.GL; gl != nil && gl.RenderNode != "" {
			o.add("rendernode=" + escape(gl.RenderNode))
		}
		b.arg("-display", o.String())
		return "headless", nil
	case g.SDL != nil:
		return "", unsupported("graphics type 'sdl' is not supported: a guest has no display of its own")
	}
	return "", unsupported("this graphics type is not supported")
}

// listener is where a screen listens: an address, a socket, or nothing.
type listener struct{ address, socket string }

func (b *builder) listener(list []libvirtxml.DomainGraphicListener, kind string) (listener, error) {
	if len(list) == 0 {
		return listener{address: b.plan.Listen}, nil
	}
	l := &list[0]
	switch {
	case l.Socket != nil:
		if l.Socket.Socket == "" {
			path, err := b.socket(kind+".sock", kind)
			if err != nil {
				return listener{}, err
			}
			l.Socket.Socket = path
		}
		return listener{socket: l.Socket.Socket}, nil
	case l.Network != nil:
		return listener{}, unsupported("graphics listen type 'network' is not supported: no network driver serves it")
	case l.Address != nil:
		if l.Address.Address == "" {
			l.Address.Address = b.plan.Listen
		}
		return listener{address: l.Address.Address}, nil
	}
	return listener{}, nil
}

// port returns the fixed port, or asks for a free one.
func (b *builder) port(service, address string, fixed int, auto bool) (int, error) {
	if !auto {
		return fixed, nil
	}
	if b.plan.Ports == nil {
		return 0, verr.New(verr.Internal, "no allocator of ports for %s", service)
	}
	n, err := b.plan.Ports.Allocate(service, address)
	if err != nil {
		return 0, fmt.Errorf("allocate port for %s: %w", service, err)
	}
	return n, nil
}

// vncBase is the port of VNC's display 0.
const vncBase = 5900

func (b *builder) vnc(v *libvirtxml.DomainGraphicVNC) error {
	l, err := b.listener(v.Listeners, "vnc")
	if err != nil {
		return err
	}
	var o options
	switch {
	case l.socket != "":
		o = options{"vnc=unix:" + escape(l.socket)}
		v.Socket = l.socket
	case l.address != "":
		if v.Port, err = b.port("vnc", l.address, v.Port, v.AutoPort != "no"); err != nil {
			return err
		}
		if v.Port < vncBase {
			return verr.New(verr.XMLError, "VNC port must be at least %d", vncBase)
		}
		v.Listen = l.address
		o = options{escape(bracket(l.address)) + fmt.Sprintf(":%d", v.Port-vncBase)}
		if err := b.websocket(&o, v, l.address); err != nil {
			return err
		}
	default:
		o = options{"none"}
	}
	if v.SharePolicy != "" {
		o.add("share=" + v.SharePolicy)
	}
	if v.PowerControl == "yes" {
		o.add("power-control=on")
	}
	if v.Passwd != "" {
		o.add("password=on")
		if err := b.password("vnc", v.Passwd, v.PasswdValidTo, v.Connected); err != nil {
			return err
		}
	}
	if v.Keymap != "" {
		b.arg("-k", v.Keymap)
	}
	if id := b.screenAudio(); id != "" {
		o.add("audiodev=" + id)
	}
	b.arg("-vnc", o.String())
	return nil
}

func (b *builder) websocket(o *options, v *libvirtxml.DomainGraphicVNC, address string) error {
	if v.WebSocket == 0 {
		return nil
	}
	port, err := b.port("vnc-websocket", address, v.WebSocket, v.WebSocket < 0)
	if err != nil {
		return err
	}
	v.WebSocket = port
	o.add(fmt.Sprintf("websocket=%d", port))
	return nil
}

func bracket(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// password notes a password for QMP; it must never get into the arguments.
func (b *builder) password(protocol, password, validTo, connected string) error {
	valid := "never"
	if validTo != "" {
		t, err := time.Parse(rtcTime, validTo)
		if err != nil {
			return verr.New(verr.XMLError, "cannot parse password validity time '%s', expect YYYY-MM-DDTHH:MM:SS", validTo)
		}
		valid = fmt.Sprint(t.Unix())
	}
	if connected == "" {
		connected = "keep"
	}
	b.cmd.Passwords = append(b.cmd.Passwords, Password{protocol, password, valid, connected})
	return nil
}

func (b *builder) spice(s *libvirtxml.DomainGraphicSpice) error {
	l, err := b.listener(s.Listeners, "spice")
	if err != nil {
		return err
	}
	if s.TLSPort > 0 || s.DefaultMode == "secure" {
		return unsupported("spice TLS is not supported: no certificates are configured")
	}
	var o options
	switch {
	case l.socket != "":
		o = options{"unix=on", "addr=" + escape(l.socket)}
	case l.address != "" && (s.Port > 0 || s.AutoPort == "yes"):
		if s.Port, err = b.port("spice", l.address, s.Port, s.AutoPort == "yes"); err != nil {
			return err
		}
		s.Listen, s.TLSPort = l.address, 0
		o = options{fmt.Sprintf("port=%d", s.Port), "addr=" + escape(l.address)}
	default:
		o = options{"port=0"}
	}
	if s.Passwd == "" {
		o.add("disable-ticketing=on")
	} else if err := b.password("spice", s.Passwd, s.PasswdValidTo, s.Connected); err != nil {
		return err
	}
	if err := spiceOptions(&o, s); err != nil {
		return err
	}
	o.add("seamless-migration=on")
	if s.Keymap != "" {
		b.arg("-k", s.Keymap)
	}
	b.arg("-spice", o.String())
	return nil
}

func spiceOptions(o *options, s *libvirtxml.DomainGraphicSpice) error {
	for _, c := range s.Channel {
		if c.Mode == "secure" {
			return unsupported("spice channel '%s' is set to secure, but TLS is not configured", c.Name)
		}
		o.add("plaintext-channel=" + escape(c.Name))
	}
	if s.Mouse != nil && s.Mouse.Mode != "" {
		o.add("agent-mouse=" + onOff(s.Mouse.Mode == "client"))
	}
	if s.Image != nil && s.Image.Compression != "" {
		o.add("image-compression=" + s.Image.Compression)
	}
	if s.JPEG != nil && s.JPEG.Compression != "" {
		o.add("jpeg-wan-compression=" + s.JPEG.Compression)
	}
	if s.ZLib != nil && s.ZLib.Compression != "" {
		o.add("zlib-glz-wan-compression=" + s.ZLib.Compression)
	}
	if s.Playback != nil && s.Playback.Compression != "" {
		o.add("playback-compression=" + s.Playback.Compression)
	}
	if s.Streaming != nil && s.Streaming.Mode != "" {
		o.add("streaming-video=" + s.Streaming.Mode)
	}
	if s.ClipBoard != nil && s.ClipBoard.CopyPaste == "no" {
		o.add("disable-copy-paste=on")
	}
	if s.FileTransfer != nil && s.FileTransfer.Enable == "no" {
		o.add("disable-agent-file-xfer=on")
	}
	if gl := s.GL; gl != nil && gl.Enable != "" {
		o.add("gl=" + map[string]string{"yes": "on", "no": "off"}[gl.Enable])
		if gl.RenderNode != "" {
			o.add("rendernode=" + escape(gl.RenderNode))
		}
	}
	return nil
}

// videoDrivers are QEMU's video cards by libvirt's model: as the primary one, and beside it.
var videoDrivers = map[string]struct{ primary, secondary string }{
	"vga": {"VGA", "secondary-vga"}, "cirrus": {"cirrus-vga", "cirrus-vga"}, "vmvga": {"vmware-svga", ""},
	"qxl": {"qxl-vga", "qxl"}, "virtio": {"virtio-vga", "virtio-gpu-pci"}, "bochs": {"bochs-display", "bochs-display"},
	"ramfb": {"ramfb", "ramfb"},
}

func (b *builder) videos() error {
	for i := range b.dev.Videos {
		v := &b.dev.Videos[i]
		if v.Model.Type == "none" {
			continue
		}
		d, ok := videoDrivers[v.Model.Type]
		driver := d.primary
		if i > 0 {
			driver = d.secondary
		}
		if !ok || driver == "" {
			return unsupported("video model '%s' is not supported", v.Model.Type)
		}
		p := props{"driver": driver, "id": v.Alias.Name}
		if err := videoModel(p, v); err != nil {
			return err
		}
		if v.Model.Type != "ramfb" {
			if err := b.place(p, v.Address); err != nil {
				return err
			}
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}

func videoModel(p props, v *libvirtxml.DomainVideo) error {
	m := v.Model
	if a := m.Accel; a != nil && a.Accel3D == "yes" {
		if m.Type != "virtio" {
			return unsupported("3D acceleration is not supported for video model '%s'", m.Type)
		}
		p["driver"] = strings.Replace(strings.Replace(fmt.Sprint(p["driver"]), "-vga", "-vga-gl", 1), "-gpu", "-gpu-gl", 1)
	}
	switch m.Type {
	case "vga", "vmvga":
		p["vgamem_mb"] = m.VRam >> 10
	case "bochs":
		p["vgamem"] = uint64(m.VRam) << 10
	case "qxl":
		p["ram_size"], p["vram_size"] = uint64(m.Ram)<<10, uint64(m.VRam)<<10
		p["vram64_size_mb"], p["vgamem_mb"], p["max_outputs"] = m.VRam64>>10, m.VGAMem>>10, m.Heads
	case "virtio":
		p["max_outputs"] = m.Heads
		if err := p.onOff("blob", m.Blob); err != nil {
			return err
		}
	}
	if err := p.onOff("edid", m.EDID); err != nil {
		return err
	}
	if r := m.Resolution; r != nil && m.Type != "cirrus" {
		p["xres"], p["yres"] = r.X, r.Y
	}
	if d := v.Driver; d != nil {
		if d.Name != "" && d.Name != "qemu" {
			return unsupported("video driver '%s' is not supported", d.Name)
		}
		return virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ)
	}
	return nil
}
