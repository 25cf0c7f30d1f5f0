package vmx

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of a machine: its memory in MiB and its CPUs, above VMware's own maxima.
const (
	maxMemory = 1 << 30
	maxCPUs   = 1 << 12
)

// sharesPerCPU are the shares that the words of sched.cpu.shares stand for.
var sharesPerCPU = map[string]uint{"low": 500, "normal": 1000, "high": 2000}

func readIdentity(r *reader, d *libvirtxml.Domain) {
	d.Name = unescapePercent(r.text("displayName"))
	d.Description = r.text("annotation")
	d.UUID = uuid.Nil.String()
	if value, ok := r.file.Get("uuid.bios"); ok {
		id, err := parseUUID(value)
		if err != nil {
			r.fail(verr.New(verr.Internal, "Could not parse UUID from VMX entry 'uuid.bios': %w", err))
		}
		d.UUID = id.String()
	}
	if high, low := r.number("vm.genid", 0), r.number("vm.genidX", 0); high != 0 || low != 0 {
		var id uuid.UUID
		for i := range 8 {
			id[i], id[8+i] = byte(uint64(high)>>(56-8*i)), byte(uint64(low)>>(56-8*i))
		}
		d.GenID = &libvirtxml.DomainGenID{Value: id.String()}
	}
}

// parseUUID reads a UUID in VMware's form, bytes with spaces and one dash between, or in the common one.
func parseUUID(s string) (uuid.UUID, error) {
	digits := strings.NewReplacer(" ", "", "-", "").Replace(s)
	if len(digits) != 2*len(uuid.UUID{}) {
		return uuid.Nil, fmt.Errorf("%q is no UUID", s)
	}
	return uuid.Parse(digits)
}

func readMemory(r *reader, d *libvirtxml.Domain) {
	size := r.within("memsize", 32, 1, maxMemory)
	if size%4 != 0 {
		r.expect("memsize", "a multiple of 4")
	}
	limit := func(key string, otherwise int64) int64 {
		n := r.number(key, otherwise)
		if n < 0 || n > size {
			n = size
		}
		return n
	}
	current := limit("sched.mem.max", size)
	d.Memory = &libvirtxml.DomainMemory{Value: uint(size) << 10, Unit: "KiB"}
	d.CurrentMemory = &libvirtxml.DomainCurrentMemory{Value: uint(current) << 10, Unit: "KiB"}
	if least := limit("sched.mem.minsize", 0); least > 0 {
		d.MemoryTune = &libvirtxml.DomainMemoryTune{
			MinGuarantee: &libvirtxml.DomainMemoryTuneLimit{Value: uint64(least) << 10, Unit: "KiB"},
		}
	}
}

func readCPU(r *reader, d *libvirtxml.Domain) {
	n := uint(r.within("numvcpus", 1, 1, maxCPUs))
	d.VCPU = &libvirtxml.DomainVCPU{Placement: "static", Value: n}
	if cores := r.within("cpuid.coresPerSocket", 1, 0, maxCPUs); cores > 1 {
		if int64(n)%cores != 0 {
			r.fail(verr.New(verr.Internal, "Expecting VMX entry 'numvcpus' %d to be a multiple of 'cpuid.coresPerSocket' %d", n, cores))
		}
		d.CPU = &libvirtxml.DomainCPU{Topology: &libvirtxml.DomainCPUTopology{
			Sockets: int(int64(n) / cores), Dies: 1, Cores: int(cores), Threads: 1,
		}}
	}
	readAffinity(r, d.VCPU)
	if shares, ok := r.file.Get("sched.cpu.shares"); ok {
		value := sharesPerCPU[strings.ToLower(shares)] * n
		if value == 0 {
			value = uint(r.within("sched.cpu.shares", 0, 0, math.MaxInt32))
		}
		d.CPUTune = &libvirtxml.DomainCPUTune{Shares: &libvirtxml.DomainCPUTuneShares{Value: value}}
	}
}

// readAffinity reads the list of the host's CPUs that the machine may run on.
func readAffinity(r *reader, v *libvirtxml.DomainVCPU) {
	const key = "sched.cpu.affinity"
	value := r.text(key)
	if value == "" || strings.EqualFold(value, "all") {
		return
	}
	var cpus []uint
	for part := range strings.SplitSeq(value, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 32)
		if err != nil || n >= maxCPUs {
			r.expect(key, "a comma separated list of unsigned integers")
			return
		}
		cpus = append(cpus, uint(n))
	}
	slices.Sort(cpus)
	cpus = slices.Compact(cpus)
	if uint(len(cpus)) < v.Value {
		r.fail(verr.New(verr.Internal, "Expecting VMX entry '%s' to contain at least as many values as 'numvcpus' (%d) but found only %d value(s)",
			key, v.Value, len(cpus)))
	}
	v.CPUSet = formatRanges(cpus)
}

// formatRanges prints sorted numbers as libvirt does: 0-2,5.
func formatRanges(sorted []uint) string {
	var parts []string
	for i := 0; i < len(sorted); {
		last := i
		for last+1 < len(sorted) && sorted[last+1] == sorted[last]+1 {
			last++
		}
		part := strconv.FormatUint(uint64(sorted[i]), 10)
		if last > i {
			part += "-" + strconv.FormatUint(uint64(sorted[last]), 10)
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ",")
}

func readOS(r *reader, d *libvirtxml.Domain) {
	arch := "i686"
	if strings.HasSuffix(strings.ToLower(r.text("guestOS")), "-64") {
		arch = "x86_64"
	}
	d.OS = &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: arch, Type: "hvm"}}
	if r.flag("smbios.reflecthost", false) {
		d.OS.SMBios = &libvirtxml.DomainSMBios{Mode: "host"}
	}
	if strings.EqualFold(r.text("firmware"), "efi") {
		d.OS.Firmware = "efi"
		if r.flag("uefi.secureBoot.enabled", false) {
			d.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
				{Enabled: "yes", Name: "enrolled-keys"}, {Enabled: "yes", Name: "secure-boot"},
			}}
		}
	}
}
