package cmdline

import (
	"fmt"
	"math"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func (b *builder) name() error {
	b.arg("-name", "guest="+escape(b.d.Name)+",debug-threads=on", "-S")
	return nil
}

func (b *builder) machine() error {
	o := options{b.d.OS.Type.Machine, "usb=off", "dump-guest-core=off"}
	if b.d.Memory != nil && b.d.Memory.DumpCore == "on" {
		o[2] = "dump-guest-core=on"
	}
	f := b.d.Features
	if f == nil {
		f = &libvirtxml.DomainFeatureList{}
	}
	if f.ACPI == nil {
		o.add("acpi=off")
	}
	for _, s := range []struct {
		key   string
		state *libvirtxml.DomainFeatureState
	}{{"vmport", f.VMPort}, {"i8042", f.PS2}} {
		if s.state != nil && s.state.State != "" {
			o.add(s.key + "=" + s.state.State)
		}
	}
	if f.SMM != nil {
		o.add("smm=" + f.SMM.State)
	} else if b.needsSMM() {
		o.add("smm=on")
	}
	switch {
	case f.IOAPIC == nil:
	case f.IOAPIC.Driver == "kvm":
		o.add("kernel_irqchip=on")
	case f.IOAPIC.Driver == "qemu":
		o.add("kernel_irqchip=split")
	}
	if b.d.MemoryBacking != nil && b.d.MemoryBacking.MemoryNosharepages != nil {
		o.add("mem-merge=off")
	}
	for _, t := range b.timers("hpet") {
		o.add("hpet=" + onOff(t.Present != "no"))
	}
	if !b.hasNUMA() {
		o.add("memory-backend=pc.ram")
	}
	o.add(b.pflash()...)
	b.arg("-machine", o.String())
	return b.accel(f)
}

func (b *builder) accel(f *libvirtxml.DomainFeatureList) error {
	if b.d.Type == "kvm" {
		b.arg("-accel", "kvm")
		return nil
	}
	accel := "tcg"
	if f.TCG != nil && f.TCG.TBCache != nil {
		kib, err := toKiB(uint64(f.TCG.TBCache.Size), f.TCG.TBCache.Unit, "KiB")
		if err != nil {
			return err
		}
		accel += fmt.Sprintf(",tb-size=%d", kib>>10)
	}
	b.arg("-accel", accel)
	return nil
}

// options is the value of an option: parts that are put together with commas. Values in it are escaped already.
type options []string

func (o *options) add(parts ...string) { *o = append(*o, parts...) }

// String returns the parts with commas between them.
func (o options) String() string { return strings.Join(o, ",") }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// units are the units of memory sizes in bytes.
var units = map[string]uint64{
	"b": 1, "bytes": 1, "KB": 1e3, "k": 1 << 10, "KiB": 1 << 10, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20, "GB": 1e9,
	"G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40,
}

// toKiB converts a size to KiB, rounded up.
func toKiB(value uint64, unit, defaultUnit string) (uint64, error) {
	if unit == "" {
		unit = defaultUnit
	}
	scale, ok := units[unit]
	if !ok {
		return 0, verr.New(verr.InvalidArg, "unknown suffix '%s'", unit)
	}
	if value > (math.MaxInt64-1023)/scale {
		return 0, verr.New(verr.Overflow, "value too large: %d%s", value, unit)
	}
	return (value*scale + 1023) >> 10, nil
}

// memory rounds up to whole MiB, as QEMU wants it, and shows that in the live definition.
func (b *builder) memory() error {
	if b.d.Memory == nil {
		return verr.New(verr.XMLError, "missing memory element")
	}
	kib, err := toKiB(uint64(b.d.Memory.Value), b.d.Memory.Unit, "KiB")
	if err != nil {
		return err
	}
	if cur := b.d.CurrentMemory; cur != nil {
		now, err := toKiB(uint64(cur.Value), cur.Unit, "KiB")
		if err != nil {
			return err
		}
		if now < kib {
			b.cmd.BalloonKiB = now
		}
	}
	mib := (kib + 1023) >> 10
	b.d.Memory.Value, b.d.Memory.Unit = uint(mib<<10), "KiB"
	b.arg("-m", fmt.Sprint(mib))
	locked := b.d.MemoryBacking != nil && b.d.MemoryBacking.MemoryLocked != nil
	b.arg("-overcommit", "mem-lock="+onOff(locked))
	if b.hasNUMA() {
		return nil
	}
	p, err := b.backend("pc.ram", mib<<20, "", "")
	if err != nil {
		return err
	}
	return b.object(p)
}

// backend describes memory of a size in bytes. Access and discard are those of a NUMA cell, if it has its own.
func (b *builder) backend(id string, size uint64, access, discard string) (props, error) {
	p := props{"qom-type": "memory-backend-ram", "id": id, "size": size}
	m := b.d.MemoryBacking
	if m == nil {
		m = &libvirtxml.DomainMemoryBacking{}
	}
	if s := m.MemorySource; s != nil {
		switch s.Type {
		case "memfd":
			p["qom-type"] = "memory-backend-memfd"
		case "", "anonymous":
		default:
			return nil, unsupported("memory source type '%s' is not supported", s.Type)
		}
	}
	if access == "" && m.MemoryAccess != nil {
		access = m.MemoryAccess.Mode
	}
	if access == "shared" {
		p["share"] = true
	}
	if m.MemoryAllocation != nil && m.MemoryAllocation.Mode == "immediate" {
		p["prealloc"] = true
		p.set("prealloc-threads", m.MemoryAllocation.Threads)
	}
	if (m.MemoryDiscard != nil || discard == "yes") && p["qom-type"] == "memory-backend-memfd" {
		return nil, unsupported("memory discard is not supported with memory source type 'memfd'")
	}
	return p, nil
}

func (b *builder) hasNUMA() bool {
	return b.d.CPU != nil && b.d.CPU.Numa != nil && len(b.d.CPU.Numa.Cell) > 0
}

func (b *builder) smp() error {
	v := b.d.VCPU
	if v == nil {
		v = &libvirtxml.DomainVCPU{Value: 1}
	}
	o := options{fmt.Sprint(v.Value)}
	if v.Current != 0 && v.Current != v.Value {
		o = options{fmt.Sprint(v.Current), fmt.Sprintf("maxcpus=%d", v.Value)}
	}
	if t := b.d.CPU.Topology; t != nil {
		o.add(fmt.Sprintf("sockets=%d,dies=%d,cores=%d,threads=%d", t.Sockets, max(t.Dies, 1), t.Cores, t.Threads))
	} else {
		o.add(fmt.Sprintf("sockets=%d,cores=1,threads=1", v.Value))
	}
	b.arg("-smp", o.String())
	return b.numa()
}

func (b *builder) numa() error {
	if !b.hasNUMA() {
		return nil
	}
	for i, cell := range b.d.CPU.Numa.Cell {
		kib, err := toKiB(uint64(cell.Memory), cell.Unit, "KiB")
		if err != nil {
			return err
		}
		id := i
		if cell.ID != nil {
			id = int(*cell.ID)
		}
		p, err := b.backend(fmt.Sprintf("ram-node%d", id), kib<<10, cell.MemAccess, cell.Discard)
		if err != nil {
			return err
		}
		if err := b.object(p); err != nil {
			return err
		}
		o := options{"node", fmt.Sprintf("nodeid=%d", id)}
		for _, r := range strings.Split(cell.CPUs, ",") {
			if r != "" {
				o.add("cpus=" + r)
			}
		}
		o.add(fmt.Sprintf("memdev=ram-node%d", id))
		b.arg("-numa", o.String())
	}
	for i, cell := range b.d.CPU.Numa.Cell {
		if cell.Distances == nil {
			continue
		}
		for _, s := range cell.Distances.Siblings {
			b.arg("-numa", fmt.Sprintf("dist,src=%d,dst=%d,val=%d", i, s.ID, s.Value))
		}
	}
	return nil
}

func (b *builder) monitor() error {
	listener := fmt.Sprintf("fd=%d", b.plan.MonitorFD)
	if b.plan.MonitorFD == 0 {
		path, err := b.socket("monitor.sock", "qmp")
		if err != nil {
			return err
		}
		b.cmd.Monitor = path
		listener = "path=" + escape(path)
	}
	b.arg("-uuid", b.d.UUID)
	if len(b.dev.Graphics) == 0 {
		b.arg("-display", "none")
	}
	b.arg("-no-user-config", "-nodefaults",
		"-chardev", "socket,id=charmonitor,"+listener+",server=on,wait=off",
		"-mon", "chardev=charmonitor,id=monitor,mode=control")
	return nil
}

func (b *builder) iothreads() error {
	ids := map[uint]bool{}
	var order []uint
	add := func(id uint) {
		if !ids[id] {
			ids[id] = true
			order = append(order, id)
		}
	}
	if l := b.d.IOThreadIDs; l != nil {
		for _, t := range l.IOThreads {
			add(t.ID)
		}
	}
	for id := uint(1); uint(len(order)) < b.d.IOThreads; id++ {
		add(id)
	}
	for _, id := range order {
		if err := b.object(props{"qom-type": "iothread", "id": fmt.Sprintf("iothread%d", id)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) finish() error {
	if !b.plan.NoSandbox {
		b.arg("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	b.arg("-msg", "timestamp=on")
	return nil
}
