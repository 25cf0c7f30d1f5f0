package inventory

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"
)

// Host is what the mirror knows of the host whose machines it shows; the zero value stands for none. Hosts are compared with ==.
type Host struct {
	// Ref is how the endpoint names it.
	Ref types.ManagedObjectReference
	// Name is the one in the inventory, HostName and DomainName are those of its network.
	Name, HostName, DomainName string
	// UUID is the BIOS's.
	UUID string
	// Version is the product's, "6.7.0".
	Version string
	// CPUModel is the processor's name.
	CPUModel string
	// MHz is the speed of a core.
	MHz int32
	// Packages, Cores and Threads count processors, all their cores and all their threads.
	Packages, Cores, Threads int16
	// Cells is the number of NUMA nodes, at least 1.
	Cells int32
	// Memory is in bytes, MemoryUsed in MiB.
	Memory     int64
	MemoryUsed int32
	// MaxVCPUs is the largest number of vCPUs of a machine, 0 if the host does not tell.
	MaxVCPUs int32
	// LongMode says that machines may have 64 bits.
	LongMode bool
}

// hostProperties are what is asked of the host.
var hostProperties = map[string]func(h *Host, value any) bool{
	"name":                         intoHost(func(h *Host) *string { return &h.Name }),
	"config.network.dnsConfig":     setDNS,
	"config.product.version":       intoHost(func(h *Host) *string { return &h.Version }),
	"capability.maxSupportedVcpus": setMaxVCPUs,
	"hardware.numaInfo":            setNUMA,
	"hardware.cpuFeature":          setFeatures,
	"summary.hardware":             setHardware,
	"summary.quickStats":           setUsage,
}

func intoHost[T any](field func(h *Host) *T) func(h *Host, value any) bool {
	return func(h *Host, value any) bool {
		v, ok := value.(T)
		if ok {
			*field(h) = v
		}
		return ok
	}
}

func setDNS(h *Host, value any) bool {
	switch dns := value.(type) {
	case types.HostDnsConfig:
		h.HostName, h.DomainName = dns.HostName, dns.DomainName
	case types.BaseHostDnsConfig:
		h.HostName, h.DomainName = dns.GetHostDnsConfig().HostName, dns.GetHostDnsConfig().DomainName
	default:
		return false
	}
	return true
}

func setMaxVCPUs(h *Host, value any) bool {
	n, ok := value.(int32)
	h.MaxVCPUs = max(0, n)
	return ok
}

func setNUMA(h *Host, value any) bool {
	numa, ok := value.(types.HostNumaInfo)
	h.Cells = max(1, numa.NumNodes)
	return ok
}

func setHardware(h *Host, value any) bool {
	hw, ok := value.(types.HostHardwareSummary)
	h.UUID, h.CPUModel, h.MHz, h.Memory = hw.Uuid, hw.CpuModel, hw.CpuMhz, hw.MemorySize
	h.Packages, h.Cores, h.Threads = hw.NumCpuPkgs, hw.NumCpuCores, hw.NumCpuThreads
	return ok
}

func setUsage(h *Host, value any) bool {
	stats, ok := value.(types.HostListSummaryQuickStats)
	h.MemoryUsed = stats.OverallMemoryUsage
	return ok
}

// longModeLevel is the CPUID leaf whose register EDX has bit 29 set for 64 bits.
const longModeLevel = -2147483647

// setFeatures reads the processor's feature words, which are printed as 32 digits in groups, the highest bit first.
func setFeatures(h *Host, value any) bool {
	all, ok := value.(types.ArrayOfHostCpuIdInfo)
	for _, info := range all.HostCpuIdInfo {
		if info.Level != longModeLevel {
			continue
		}
		digits := make([]byte, 0, 32)
		for _, c := range []byte(info.Edx) {
			if c != ':' {
				digits = append(digits, c)
			}
		}
		h.LongMode = len(digits) == 32 && digits[2] == '1'
	}
	return ok
}

// apply takes in an update of the host.
func (h *Host) apply(update types.ObjectUpdate) error {
	if update.Kind == types.ObjectUpdateKindLeave {
		return fmt.Errorf("host %s is gone", update.Obj.Value)
	}
	h.Ref = update.Obj
	for _, change := range update.ChangeSet {
		set := hostProperties[change.Name]
		if set == nil || change.Val == nil {
			continue
		}
		if !set(h, change.Val) {
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
	}
	return nil
}
