package cmdline

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// filesystemModels are 9p's security models by access mode.
var filesystemModels = map[string]string{
	"": "passthrough", "passthrough": "passthrough", "mapped": "mapped", "squash": "none",
}

func (b *builder) filesystems() error {
	for i := range b.dev.Filesystems {
		f := &b.dev.Filesystems[i]
		if f.Source == nil || f.Source.Mount == nil || f.Source.Mount.Socket != "" || f.Target == nil ||
			(f.Driver != nil && f.Driver.Type != "" && f.Driver.Type != "path") {
			return unsupported("only filesystems of type 'mount' with the 9p driver are supported")
		}
		model, ok := filesystemModels[f.AccessMode]
		if !ok {
			return unsupported("filesystem access mode '%s' is not supported", f.AccessMode)
		}
		id := f.Alias.Name
		o := options{"local", "security_model=" + model}
		if f.MultiDevs != "" && f.MultiDevs != "default" {
			o.add("multidevs=" + f.MultiDevs)
		}
		if f.FMode != "" {
			o.add("fmode=0" + strings.TrimLeft(f.FMode, "0"))
		}
		if f.DMode != "" {
			o.add("dmode=0" + strings.TrimLeft(f.DMode, "0"))
		}
		o.add("id=fsdev-"+id, "path="+escape(f.Source.Mount.Dir))
		if f.ReadOnly != nil {
			o.add("readonly=on")
		}
		b.arg("-fsdev", o.String())
		p := props{"driver": virtioName("virtio-9p", f.Model), "id": id, "fsdev": "fsdev-" + id, "mount_tag": f.Target.Dir}
		if err := b.place(p, f.Address); err != nil {
			return err
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}

// inputDrivers are QEMU's input devices by bus and type.
var inputDrivers = map[string]string{
	"usb tablet": "usb-tablet", "usb mouse": "usb-mouse", "usb keyboard": "usb-kbd", "virtio tablet": "virtio-tablet",
	"virtio mouse": "virtio-mouse", "virtio keyboard": "virtio-keyboard", "virtio passthrough": "virtio-input-host",
}

func (b *builder) inputs() error {
	for i := range b.dev.Inputs {
		if err := b.input(&b.dev.Inputs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) input(in *libvirtxml.DomainInput) error {
	if in.Bus == "ps2" {
		return nil
	}
	driver, ok := inputDrivers[in.Bus+" "+in.Type]
	if !ok {
		return unsupported("input device type '%s' on bus '%s' is not supported", in.Type, in.Bus)
	}
	p := props{"driver": driver, "id": in.Alias.Name}
	place := b.placeUSB
	if in.Bus == "virtio" {
		p["driver"], place = virtioName(driver, in.Model), b.place
		if d := in.Driver; d != nil {
			if err := virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ); err != nil {
				return err
			}
		}
	}
	if in.Type == "passthrough" {
		if in.Source == nil || in.Source.Passthrough == nil {
			return verr.New(verr.XMLError, "missing evdev path for input passthrough")
		}
		p["evdev"] = in.Source.Passthrough.EVDev
	}
	if err := place(p, in.Address); err != nil {
		return err
	}
	return b.device(p)
}

func audioName(id int) string { return fmt.Sprintf("audio%d", id) }

func (b *builder) audios() error {
	for _, a := range b.dev.Audios {
		p := props{"id": audioName(a.ID)}
		switch {
		case a.None != nil:
			p["driver"] = "none"
		case a.SPICE != nil:
			p["driver"] = "spice"
		case a.File != nil:
			p["driver"] = "wav"
			p.set("path", a.File.Path)
		default:
			return unsupported("audio backend of <audio id='%d'> is not supported: use 'none', 'spice' or 'file'", a.ID)
		}
		if a.TimerPeriod != 0 {
			p["timer-period"] = a.TimerPeriod
		}
		if err := b.json("-audiodev", p); err != nil {
			return err
		}
	}
	return nil
}

// screenAudio returns the backend that a VNC screen plays, or "".
func (b *builder) screenAudio() string {
	if len(b.dev.Audios) == 0 {
		return ""
	}
	return audioName(b.dev.Audios[0].ID)
}

// soundDrivers are QEMU's sound cards by libvirt's model.
var soundDrivers = map[string]string{
	"ac97": "AC97", "es1370": "ES1370", "sb16": "sb16", "ich6": "intel-hda", "ich9": "ich9-intel-hda", "usb": "usb-audio",
}

// codecDrivers are the codecs of an HDA card by libvirt's type.
var codecDrivers = map[string]string{"duplex": "hda-duplex", "micro": "hda-micro", "output": "hda-output"}

func (b *builder) sounds() error {
	for i := range b.dev.Sounds {
		s := &b.dev.Sounds[i]
		driver, ok := soundDrivers[s.Model]
		if !ok {
			return unsupported("sound card model '%s' is not supported", s.Model)
		}
		id := s.Alias.Name
		p := props{"driver": driver, "id": id}
		audio := b.screenAudio()
		if s.Audio != nil {
			audio = audioName(int(s.Audio.ID))
		}
		hda := s.Model == "ich6" || s.Model == "ich9"
		if !hda {
			p.set("audiodev", audio)
		}
		if err := b.placeSound(p, s); err != nil {
			return err
		}
		if err := b.device(p); err != nil {
			return err
		}
		if hda {
			if err := b.codecs(s, audio); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) placeSound(p props, s *libvirtxml.DomainSound) error {
	switch s.Model {
	case "sb16":
		return nil
	case "usb":
		if err := p.onOff("multi", s.MultiChannel); err != nil {
			return err
		}
		return b.placeUSB(p, s.Address)
	}
	return b.place(p, s.Address)
}

func (b *builder) codecs(s *libvirtxml.DomainSound, audio string) error {
	codecs := s.Codec
	if len(codecs) == 0 {
		codecs = []libvirtxml.DomainSoundCodec{{Type: "duplex"}}
	}
	for n, c := range codecs {
		driver, ok := codecDrivers[c.Type]
		if !ok {
			return unsupported("sound codec '%s' is not supported", c.Type)
		}
		p := props{
			"driver": driver, "id": fmt.Sprintf("%s-codec%d", s.Alias.Name, n), "bus": s.Alias.Name + ".0", "cad": n,
		}
		p.set("audiodev", audio)
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}

// watchdogActions are QEMU's words for what happens when a watchdog fires; for "dump" the driver dumps and goes on.
var watchdogActions = map[string]string{
	"reset": "reset", "shutdown": "shutdown", "poweroff": "poweroff", "pause": "pause", "none": "none",
	"inject-nmi": "inject-nmi",
}

func (b *builder) watchdogs() error {
	for i := range b.dev.Watchdogs {
		w := &b.dev.Watchdogs[i]
		action, ok := watchdogActions[w.Action]
		if !ok {
			return unsupported("watchdog action '%s' is not supported", w.Action)
		}
		if w.Model == "itco" {
			b.arg("-global", "ICH9-LPC.noreboot=off")
		} else {
			p := props{"driver": w.Model, "id": w.Alias.Name}
			if w.Model == "i6300esb" {
				if err := b.place(p, w.Address); err != nil {
					return err
				}
			}
			if err := b.device(p); err != nil {
				return err
			}
		}
		if i == 0 {
			b.arg("-action", "watchdog="+action)
		} else if w.Action != b.dev.Watchdogs[0].Action {
			return unsupported("watchdogs with different actions are not supported")
		}
	}
	return nil
}

func (b *builder) balloon() error {
	m := b.dev.MemBalloon
	if m == nil || m.Model == "none" {
		return nil
	}
	p := props{"driver": virtioName("virtio-balloon", m.Model), "id": m.Alias.Name}
	if err := p.onOff("deflate-on-oom", m.AutoDeflate); err != nil {
		return err
	}
	if err := p.onOff("free-page-reporting", m.FreePageReporting); err != nil {
		return err
	}
	if d := m.Driver; d != nil {
		if err := virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ); err != nil {
			return err
		}
	}
	if m.Stats != nil {
		b.cmd.BalloonPeriod = m.Stats.Period
	}
	if err := b.place(p, m.Address); err != nil {
		return err
	}
	return b.device(p)
}

func (b *builder) rngs() error {
	for i := range b.dev.RNGs {
		if err := b.rng(&b.dev.RNGs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) rng(r *libvirtxml.DomainRNG) error {
	object := "obj" + r.Alias.Name
	o := props{"id": object}
	switch {
	case r.Backend.Random != nil:
		o["qom-type"], o["filename"] = "rng-random", r.Backend.Random.Device
	case r.Backend.BuiltIn != nil:
		o["qom-type"] = "rng-builtin"
	default:
		return unsupported("random number generator backend 'egd' is not supported")
	}
	if err := b.object(o); err != nil {
		return err
	}
	p := props{"driver": virtioName("virtio-rng", r.Model), "id": r.Alias.Name, "rng": object}
	if r.Rate != nil {
		p["max-bytes"], p["period"] = r.Rate.Bytes, uint(1000)
		p.set("period", r.Rate.Period)
	}
	if d := r.Driver; d != nil {
		if err := virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ); err != nil {
			return err
		}
	}
	if err := b.place(p, r.Address); err != nil {
		return err
	}
	return b.device(p)
}

// panics adds the panic devices and the note of the guest kernel's memory layout; a hyperv panic is a flag of the CPU.
func (b *builder) panics() error {
	for i := range b.dev.Panics {
		switch p := &b.dev.Panics[i]; p.Model {
		case "hyperv":
		case "isa":
			dev := props{"driver": "pvpanic"}
			if p.Address != nil && p.Address.ISA != nil && p.Address.ISA.IOBase != nil {
				dev["ioport"] = *p.Address.ISA.IOBase
			}
			if err := b.device(dev); err != nil {
				return err
			}
		case "pvpanic":
			dev := props{"driver": "pvpanic-pci"}
			if err := b.place(dev, p.Address); err != nil {
				return err
			}
			if err := b.device(dev); err != nil {
				return err
			}
		default:
			return unsupported("panic model '%s' is not supported", p.Model)
		}
	}
	if f := b.d.Features; f != nil && f.VMCoreInfo != nil && f.VMCoreInfo.State != "off" {
		return b.device(props{"driver": "vmcoreinfo"})
	}
	return nil
}
