package hardware

import (
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// check fails with ConfigUnsupported for the first element that ESX has nothing for. What every hypervisor has by itself, such as a
// keyboard, or that only tells other programs something, such as <metadata>, may be there and is not kept.
func check(d *libvirtxml.Domain) error {
	v := d.Devices
	for _, e := range []struct {
		name string
		has  bool
	}{
		{"filesystem", len(v.Filesystems) > 0},
		{"sound", len(v.Sounds) > 0},
		{"hostdev", len(v.Hostdevs) > 0},
		{"redirdev", len(v.RedirDevs) > 0},
		{"smartcard", len(v.Smartcards) > 0},
		{"tpm", len(v.TPMs) > 0},
		{"watchdog", len(v.Watchdogs) > 0},
		{"rng", len(v.RNGs) > 0},
		{"shmem", len(v.Shmems) > 0},
		{"panic", len(v.Panics) > 0},
		{"vsock", v.VSock != nil},
		{"iommu", v.IOMMU != nil},
		{"memory", len(v.Memorydevs) > 0},
		{"lease", len(v.Leases) > 0},
		{"channel", len(v.Channels) > 0},
		{"hub", len(v.Hubs) > 0},
		{"memoryBacking", d.MemoryBacking != nil},
		{"maxMemory", d.MaximumMemory != nil},
		{"numatune", d.NUMATune != nil},
		{"blkiotune", d.BlockIOTune != nil},
		{"iothreads", d.IOThreads != 0},
		{"launchSecurity", d.LaunchSecurity != nil},
		{"idmap", d.IDMap != nil},
		{"kernel", d.OS.Kernel != "" || d.OS.Initrd != "" || d.OS.Cmdline != ""},
		{"bootloader", d.Bootloader != ""},
		{"sysinfo", len(d.SysInfo) > 0},
		{"numa", d.CPU != nil && d.CPU.Numa != nil},
	} {
		if e.has {
			return verr.New(verr.ConfigUnsupported, "element <%s> is not supported: ESX has nothing for it", e.name)
		}
	}
	for _, step := range []func(*libvirtxml.Domain) error{checkControllers, checkTuning, checkTimes} {
		if err := step(d); err != nil {
			return err
		}
	}
	return nil
}

func checkControllers(d *libvirtxml.Domain) error {
	for _, c := range d.Devices.Controllers {
		if slices.Contains([]string{"scsi", "ide", "fdc", "sata", "nvme", "pci"}, c.Type) || c.Type == "usb" && c.Model == "none" {
			continue
		}
		return verr.New(verr.ConfigUnsupported, "element <controller> of type '%s' is not supported, expecting 'scsi', 'ide', 'fdc', 'sata' "+
			"or 'nvme'", c.Type)
	}
	return nil
}

func checkTuning(d *libvirtxml.Domain) error {
	if t := d.CPUTune; t != nil {
		if len(t.VCPUPin) > 0 || t.EmulatorPin != nil || len(t.IOThreadPin) > 0 || t.Period != nil || t.Quota != nil ||
			t.GlobalPeriod != nil || t.GlobalQuota != nil || t.EmulatorPeriod != nil || t.EmulatorQuota != nil ||
			len(t.VCPUSched) > 0 || len(t.CacheTune) > 0 || len(t.MemoryTune) > 0 {
			return verr.New(verr.ConfigUnsupported, "element <cputune>: only <shares> is supported")
		}
	}
	if t := d.MemoryTune; t != nil && (t.HardLimit != nil || t.SoftLimit != nil || t.SwapHardLimit != nil) {
		return verr.New(verr.ConfigUnsupported, "element <memtune>: only <min_guarantee> is supported; <currentMemory> limits the memory")
	}
	return nil
}

func checkTimes(d *libvirtxml.Domain) error {
	if d.Clock.Offset != "utc" || len(d.Clock.Timer) > 0 && d.Clock.Adjustment != "" {
		return verr.New(verr.ConfigUnsupported, "element <clock>: offset '%s' is not supported, expecting 'utc'", d.Clock.Offset)
	}
	for _, a := range []struct{ element, value, fixed string }{
		{"on_poweroff", d.OnPoweroff, "destroy"}, {"on_reboot", d.OnReboot, "restart"}, {"on_crash", d.OnCrash, "destroy"},
	} {
		if a.value != a.fixed {
			return verr.New(verr.ConfigUnsupported, "element <%s>: '%s' is not supported, expecting '%s'", a.element, a.value, a.fixed)
		}
	}
	return nil
}
