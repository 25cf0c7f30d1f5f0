package define

import "strconv"

// check refuses what contradicts itself once everything is filled in.
func check(c *completion) error {
	for _, f := range []func() error{c.checkBoot, c.checkIOThreads, c.checkVCPUs} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// bootDevices are the devices of <os><boot dev=>.
var bootDevices = map[string]bool{"hd": true, "fd": true, "cdrom": true, "network": true}

func (c *completion) checkBoot() error {
	if err := c.checkFirmware(); err != nil {
		return err
	}
	for _, b := range c.d.OS.BootDevices {
		if !bootDevices[b.Dev] {
			return malformed("unknown boot device '%s'", b.Dev)
		}
	}
	orders := map[uint]bool{}
	for _, order := range c.bootOrders() {
		if orders[order] {
			return malformed("boot order '%d' used for more than one device", order)
		}
		orders[order] = true
	}
	if len(orders) > 0 && len(c.d.OS.BootDevices) > 0 {
		return unsupported("per-device boot elements cannot be used together with os/boot elements")
	}
	return nil
}

// maxTimeout is the largest value of timeouts at boot, in milliseconds.
const maxTimeout = 65535

func (c *completion) checkFirmware() error {
	os := c.d.OS
	switch {
	case os.Firmware != "" && os.Firmware != "efi" && os.Firmware != "bios":
		return malformed("invalid firmware '%s'", os.Firmware)
	case os.Firmware != "" && os.Loader != nil && os.Loader.Path != "":
		return malformed("loader path cannot be specified together with firmware autoselection")
	case os.Firmware == "" && os.FirmwareInfo != nil && len(os.FirmwareInfo.Features) > 0:
		return malformed("firmware features require firmware autoselection")
	}
	if m := os.BootMenu; m != nil && m.Timeout != "" {
		if n, err := strconv.ParseUint(m.Timeout, 10, 32); err != nil || n > maxTimeout {
			return malformed("invalid value for boot menu timeout, must be in range [0,%d]", maxTimeout)
		}
	}
	return nil
}

// bootOrders lists the boot orders that devices ask for.
func (c *completion) bootOrders() []uint {
	var orders []uint
	for _, k := range c.dev.Disks {
		if k.Boot != nil {
			orders = append(orders, k.Boot.Order)
		}
	}
	for _, n := range c.dev.Interfaces {
		if n.Boot != nil {
			orders = append(orders, n.Boot.Order)
		}
	}
	for _, h := range c.dev.Hostdevs {
		if h.Boot != nil {
			orders = append(orders, h.Boot.Order)
		}
	}
	for _, r := range c.dev.RedirDevs {
		if r.Boot != nil {
			orders = append(orders, r.Boot.Order)
		}
	}
	return orders
}

// maxIOThreads bounds the threads of one guest.
const maxIOThreads = 1024

func (c *completion) checkIOThreads() error {
	if c.d.IOThreads > maxIOThreads {
		return unsupported("more than %d iothreads are not supported", maxIOThreads)
	}
	ids := map[uint]bool{}
	if list := c.d.IOThreadIDs; list != nil {
		for _, t := range list.IOThreads {
			if t.ID == 0 || ids[t.ID] {
				return malformed("invalid or duplicate iothread id '%d'", t.ID)
			}
			ids[t.ID] = true
		}
	}
	for id := uint(1); uint(len(ids)) < c.d.IOThreads && id <= c.d.IOThreads; id++ {
		ids[id] = true
	}
	for i := range c.dev.Disks {
		k := &c.dev.Disks[i]
		if k.Driver != nil && k.Driver.IOThread != nil && !ids[*k.Driver.IOThread] {
			return unsupported("Disk iothread '%d' not defined in iothreadid", *k.Driver.IOThread)
		}
	}
	return nil
}

// maxVCPUs is the largest number that any machine type of QEMU takes.
const maxVCPUs = 4096

func (c *completion) checkVCPUs() error {
	v := c.d.VCPU
	if v == nil {
		return nil
	}
	if v.Value > maxVCPUs {
		return unsupported("Maximum CPUs greater than specified machine type limit %d", maxVCPUs)
	}
	if v.Current > v.Value {
		return malformed("maxvcpus must not be less than current vcpus (%d < %d)", v.Value, v.Current)
	}
	return nil
}
