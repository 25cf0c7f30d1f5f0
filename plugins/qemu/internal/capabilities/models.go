package capabilities

import "strings"

// x86Models are the CPU models that libvirt 9.0 knows for x86, in its order, with the maker that it gives them.
var x86Models = []struct{ name, vendor string }{
	{"486", ""},
	{"pentium", ""},
	{"pentium2", ""},
	{"pentium3", ""},
	{"pentiumpro", ""},
	{"coreduo", "Intel"},
	{"n270", "Intel"},
	{"core2duo", "Intel"},
	{"qemu32", ""},
	{"kvm32", ""},
	{"cpu64-rhel5", ""},
	{"cpu64-rhel6", ""},
	{"qemu64", ""},
	{"kvm64", ""},
	{"Conroe", "Intel"},
	{"Penryn", "Intel"},
	{"Nehalem", "Intel"},
	{"Nehalem-IBRS", "Intel"},
	{"Westmere", "Intel"},
	{"Westmere-IBRS", "Intel"},
	{"SandyBridge", "Intel"},
	{"SandyBridge-IBRS", "Intel"},
	{"IvyBridge", "Intel"},
	{"IvyBridge-IBRS", "Intel"},
	{"Haswell-noTSX", "Intel"},
	{"Haswell-noTSX-IBRS", "Intel"},
	{"Haswell", "Intel"},
	{"Haswell-IBRS", "Intel"},
	{"Broadwell-noTSX", "Intel"},
	{"Broadwell-noTSX-IBRS", "Intel"},
	{"Broadwell", "Intel"},
	{"Broadwell-IBRS", "Intel"},
	{"Skylake-Client", "Intel"},
	{"Skylake-Client-IBRS", "Intel"},
	{"Skylake-Client-noTSX-IBRS", "Intel"},
	{"Skylake-Server", "Intel"},
	{"Skylake-Server-IBRS", "Intel"},
	{"Skylake-Server-noTSX-IBRS", "Intel"},
	{"Cascadelake-Server", "Intel"},
	{"Cascadelake-Server-noTSX", "Intel"},
	{"Icelake-Client", "Intel"},
	{"Icelake-Client-noTSX", "Intel"},
	{"Icelake-Server", "Intel"},
	{"Icelake-Server-noTSX", "Intel"},
	{"Cooperlake", "Intel"},
	{"Snowridge", "Intel"},
	{"athlon", "AMD"},
	{"phenom", "AMD"},
	{"Opteron_G1", "AMD"},
	{"Opteron_G2", "AMD"},
	{"Opteron_G3", "AMD"},
	{"Opteron_G4", "AMD"},
	{"Opteron_G5", "AMD"},
	{"EPYC", "AMD"},
	{"EPYC-IBPB", "AMD"},
	{"EPYC-Rome", "AMD"},
	{"EPYC-Milan", "AMD"},
	{"Dhyana", "Hygon"},
}

// powerModels are those for POWER.
var powerModels = []string{"POWER6", "POWER7", "POWER8", "POWER9", "POWER10", "POWERPC_e5500", "POWERPC_e6500"}

// vendors are libvirt's names of makers by the words of the CPUs.
var vendors = map[string]string{"AuthenticAMD": "AMD", "GenuineIntel": "Intel", "HygonGenuine": "Hygon"}

// libvirtFeatures are libvirt's names of CPU features where QEMU's are others.
var libvirtFeatures = map[string]string{
	"cmp-legacy": "cmp_legacy", "ds-cpl": "ds_cpl", "fxsr-opt": "fxsr_opt", "lahf-lm": "lahf_lm", "nodeid-msr": "nodeid_msr",
	"pclmulqdq": "pclmuldq", "perfctr-core": "perfctr_core", "perfctr-nb": "perfctr_nb", "tsc-adjust": "tsc_adjust",
}

// flagFeatures are QEMU's names of CPU features where Linux shows others in /proc/cpuinfo; the rest differ by "_" and "-" only.
var flagFeatures = map[string]string{
	"sse4_1": "sse4.1", "sse4_2": "sse4.2", "cr8_legacy": "cr8legacy", "tsc_deadline_timer": "tsc-deadline",
	"nonstop_tsc": "invtsc", "avx512_vbmi2": "avx512vbmi2", "avx512_vnni": "avx512vnni", "avx512_bitalg": "avx512bitalg",
	"ibrs_enhanced": "ibrs-all", "3dnowprefetch": "3dnowprefetch", "sse4a": "sse4a",
}

// FeatureName translates QEMU's name of a CPU feature to libvirt's.
func FeatureName(qemu string) string {
	if name, ok := libvirtFeatures[qemu]; ok {
		return name
	}
	return qemu
}

// Models lists the names of CPU models of an architecture as libvirt does. ok is false for an architecture that libvirt
// does not know; a known one without a list, whose models are QEMU's own, has none.
func Models(arch string) (names []string, ok bool) {
	switch arch {
	case "i686", "x86_64":
		for _, m := range x86Models {
			names = append(names, m.name)
		}
		return names, true
	case "ppc64", "ppc64le":
		return powerModels, true
	}
	return nil, knownArchs[arch]
}

// knownArchs are libvirt's names of architectures without a list of models.
var knownArchs = set("aarch64 alpha armv6l armv7b armv7l cris hppa i686 ia64 itanium lm32 loongarch64 m68k microblaze microblazeel " +
	"mips mips64 mips64el mipsel openrisc or32 parisc parisc64 ppc ppcemb riscv32 riscv64 s390 s390x sh4 sh4eb sparc " +
	"sparc64 unicore32 xtensa xtensaeb")

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// modelVendor returns the maker of a model of x86; known is false for names that are not libvirt's.
func modelVendor(name string) (vendor string, known bool) {
	for _, m := range x86Models {
		if m.name == name {
			return m.vendor, true
		}
	}
	return "", false
}
