package define

import (
	"libvirt.org/go/libvirtxml"
)

// soundModels are the sound cards that QEMU has.
var soundModels = map[string]bool{
	"ac97": true, "es1370": true, "sb16": true, "pcspk": true, "ich6": true, "ich9": true, "usb": true,
}

// completeSmallDevices fills in devices that need little.
func completeSmallDevices(c *completion) error {
	for _, f := range []func() error{c.memballoon, c.rngs, c.watchdogs, c.tpms, c.panics, c.sounds, c.filesystems} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (c *completion) memballoon() error {
	if c.dev.MemBalloon == nil {
		c.dev.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "virtio"}
	}
	switch m := c.dev.MemBalloon.Model; m {
	case "virtio", "virtio-transitional", "virtio-non-transitional", "none":
		return nil
	default:
		return unsupported("memory balloon device type '%s' is not supported by this version of qemu", m)
	}
}

func (c *completion) rngs() error {
	for i := range c.dev.RNGs {
		r := &c.dev.RNGs[i]
		if r.Backend == nil {
			return malformed("missing RNG device backend")
		}
		if b := r.Backend.Random; b != nil {
			orDefault(&b.Device, "/dev/random")
		}
	}
	return nil
}

func (c *completion) watchdogs() error {
	for i := range c.dev.Watchdogs {
		w := &c.dev.Watchdogs[i]
		orDefault(&w.Action, "reset")
		switch {
		case w.Model == "ib700":
		case w.Model == "itco" && c.q35:
		case w.Model == "i6300esb":
		default:
			return unsupported("watchdog model '%s' is not supported with machine type '%s'", w.Model,
				c.d.OS.Type.Machine)
		}
		if w.Model != "i6300esb" && w.Address != nil {
			return malformed("%s model of watchdog does not support configuring the address", w.Model)
		}
	}
	return nil
}

func (c *completion) tpms() error {
	for i := range c.dev.TPMs {
		t := &c.dev.TPMs[i]
		orDefault(&t.Model, "tpm-tis")
		if t.Backend == nil {
			return malformed("missing TPM device backend")
		}
		e := t.Backend.Emulator
		if e == nil {
			continue
		}
		orDefault(&e.Version, "2.0")
		if t.Model == "tpm-crb" && e.Version != "2.0" {
			return unsupported("Unsupported TPM version '%s' for model '%s'", e.Version, t.Model)
		}
	}
	return nil
}

func (c *completion) panics() error {
	seen := map[string]bool{}
	for i := range c.dev.Panics {
		p := &c.dev.Panics[i]
		orDefault(&p.Model, "isa")
		if seen[p.Model] {
			return malformed("Multiple panic devices with model '%s'", p.Model)
		}
		seen[p.Model] = true
		if p.Model != "isa" && p.Model != "hyperv" && p.Model != "pvpanic" {
			return unsupported("the QEMU binary does not support the %s panic device", p.Model)
		}
	}
	return nil
}

func (c *completion) sounds() error {
	for _, s := range c.dev.Sounds {
		if !soundModels[s.Model] {
			return unsupported("sound card model '%s' is not supported by qemu", s.Model)
		}
	}
	return nil
}

func (c *completion) filesystems() error {
	for i := range c.dev.Filesystems {
		f := &c.dev.Filesystems[i]
		virtiofs := f.Driver != nil && f.Driver.Type == "virtiofs"
		if f.Source != nil && f.Source.Mount != nil {
			if virtiofs {
				orDefault(&f.AccessMode, "passthrough")
			}
			orDefault(&f.AccessMode, "passthrough")
		}
	}
	return nil
}
