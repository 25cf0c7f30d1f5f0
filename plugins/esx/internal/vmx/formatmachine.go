package vmx

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// guests are the names of unknown guests of an architecture.
var guests = map[string]string{"": "other", "i686": "other", "x86_64": "other-64"}

func writeOS(w *writer, d *libvirtxml.Domain) {
	if d.OS == nil || d.OS.Type == nil {
		w.fail(verr.New(verr.XMLError, "an os <type> must be specified"))
		return
	}
	guest, ok := guests[d.OS.Type.Arch]
	if !ok {
		w.fail(verr.New(verr.Internal, "Expecting domain XML attribute 'arch' of entry 'os/type' to be 'i686' or 'x86_64' but found '%s'",
			d.OS.Type.Arch))
	}
	w.set("guestOS", guest)
	if d.OS.SMBios != nil {
		switch d.OS.SMBios.Mode {
		case "", "none", "emulate":
		case "host":
			w.set("smbios.reflecthost", true)
		default:
			w.unsupported("Unsupported SMBIOS mode '%s'", d.OS.SMBios.Mode)
		}
	}
	switch d.OS.Firmware {
	case "", "bios":
	case "efi":
		w.set("firmware", "efi")
		if secureBoot(d.OS.FirmwareInfo) {
			w.set("uefi.secureBoot.enabled", true)
		}
	default:
		w.unsupported("Unsupported firmware '%s'", d.OS.Firmware)
	}
}

func secureBoot(info *libvirtxml.DomainOSFirmwareInfo) bool {
	if info == nil {
		return false
	}
	for _, f := range info.Features {
		if f.Name == "secure-boot" {
			return f.Enabled == "yes"
		}
	}
	return false
}

func writeIdentity(w *writer, d *libvirtxml.Domain) {
	id, err := domxml.ParseUUID(d.UUID)
	if err != nil {
		w.fail(err)
		return
	}
	w.set("uuid.bios", formatUUID(id))
	if d.GenID != nil {
		writeGenID(w, strings.TrimSpace(d.GenID.Value))
	}
	w.set("displayName", escapeName(d.Name))
	if d.Description != "" {
		w.set("annotation", d.Description)
	}
}

// writeGenID writes a generation ID as VMware's two numbers.
func writeGenID(w *writer, value string) {
	id := uuid.New()
	if value != "" {
		var err error
		if id, err = domxml.ParseUUID(value); err != nil {
			w.fail(err)
			return
		}
	}
	w.set("vm.genid", int64(binary.BigEndian.Uint64(id[:8])))
	w.set("vm.genidX", int64(binary.BigEndian.Uint64(id[8:])))
}

// formatUUID prints a UUID in VMware's form.
func formatUUID(id uuid.UUID) string {
	var b strings.Builder
	for i, v := range id {
		switch i {
		case 0:
		case len(id) / 2:
			b.WriteByte('-')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(hex.EncodeToString([]byte{v}))
	}
	return b.String()
}

// escapeName keeps a percent sign that would begin an escape when the name is read.
func escapeName(name string) string {
	if unescapePercent(name) == name {
		return name
	}
	return strings.ReplaceAll(name, "%", "%25")
}

// perMiB are the KiB of units; VMware counts memory in MiB.
var perMiB = map[string]uint64{"": 1, "KiB": 1, "k": 1, "MiB": 1 << 10, "M": 1 << 10, "GiB": 1 << 20, "G": 1 << 20}

func writeMemory(w *writer, d *libvirtxml.Domain) {
	if d.Memory == nil || d.CurrentMemory == nil || d.Memory.Value>>10 > maxMemory {
		w.fail(verr.New(verr.XMLError, "element <memory> is missing or too large"))
		return
	}
	size := (d.Memory.Value + 4095) >> 12 << 2
	w.set("memsize", size)
	if current := (d.CurrentMemory.Value + 1023) >> 10; current < size && current > 0 {
		w.set("sched.mem.max", current)
	}
	if d.MemoryTune == nil || d.MemoryTune.MinGuarantee == nil {
		return
	}
	least := d.MemoryTune.MinGuarantee
	factor, ok := perMiB[least.Unit]
	if !ok || least.Value > maxMemory<<10 {
		w.unsupported("Unsupported size of element <min_guarantee>")
		return
	}
	if least.Value > 0 {
		w.set("sched.mem.minsize", (least.Value*factor+1023)>>10)
	}
}

func writeCPU(w *writer, d *libvirtxml.Domain) {
	if d.VCPU == nil || d.VCPU.Value == 0 || d.VCPU.Value > maxCPUs {
		w.fail(verr.New(verr.XMLError, "element <vcpu> is missing or out of range"))
		return
	}
	if d.VCPU.Current != 0 && d.VCPU.Current != d.VCPU.Value {
		w.unsupported("No support for domain XML entry 'vcpu' attribute 'current'")
	}
	w.set("numvcpus", d.VCPU.Value)
	if d.CPU != nil && d.CPU.Topology != nil {
		writeTopology(w, d.CPU.Topology, d.VCPU.Value)
	}
	writeAffinity(w, d.VCPU)
	if d.CPUTune != nil && d.CPUTune.Shares != nil {
		writeShares(w, d.CPUTune.Shares.Value, d.VCPU.Value)
	}
}

func writeTopology(w *writer, t *libvirtxml.DomainCPUTopology, cpus uint) {
	switch {
	case t.Threads > 1:
		w.unsupported("Only 1 thread per core is supported")
	case t.Dies > 1 || t.Clusters > 1:
		w.unsupported("Only 1 die per socket is supported")
	case t.Sockets < 1 || t.Cores < 1 || t.Sockets > maxCPUs || t.Cores > maxCPUs || uint(t.Sockets*t.Cores) != cpus:
		w.unsupported("CPU topology doesn't match numbers of vcpus in element <topology>")
	default:
		w.set("cpuid.coresPerSocket", t.Cores)
	}
}

func writeAffinity(w *writer, v *libvirtxml.DomainVCPU) {
	if v.CPUSet == "" {
		return
	}
	cpus, err := parseRanges(v.CPUSet)
	if err != nil {
		w.fail(err)
		return
	}
	if uint(len(cpus)) < v.Value {
		w.fail(verr.New(verr.Internal, "Expecting domain XML attribute 'cpuset' of entry 'vcpu' to contain at least %d CPU(s)", v.Value))
	}
	parts := make([]string, len(cpus))
	for i, n := range cpus {
		parts[i] = strconv.FormatUint(uint64(n), 10)
	}
	w.set("sched.cpu.affinity", strings.Join(parts, ","))
}

// maxRanges is the longest set of CPUs that is read, in bytes.
const maxRanges = 64 << 10

// parseRanges reads a set of CPUs in libvirt's form, 0-7,^3, and sorts it.
func parseRanges(s string) ([]uint, error) {
	if len(s) > maxRanges {
		return nil, verr.New(verr.XMLError, "attribute 'cpuset' of element <vcpu> is longer than %d bytes", maxRanges)
	}
	var in [maxCPUs]bool
	for part := range strings.SplitSeq(s, ",") {
		part, out := strings.CutPrefix(strings.TrimSpace(part), "^")
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		low, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 32)
		high, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 32)
		if err1 != nil || err2 != nil || low > high || high >= maxCPUs {
			return nil, verr.New(verr.XMLError, "Invalid value '%s' for attribute 'cpuset' of element <vcpu>", s)
		}
		for n := low; n <= high; n++ {
			in[n] = !out
		}
	}
	var cpus []uint
	for n, set := range in {
		if set {
			cpus = append(cpus, uint(n))
		}
	}
	return cpus, nil
}

func writeShares(w *writer, shares, cpus uint) {
	for word, each := range sharesPerCPU {
		if shares == each*cpus {
			w.set("sched.cpu.shares", word)
			return
		}
	}
	w.set("sched.cpu.shares", shares)
}
