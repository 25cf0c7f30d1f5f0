package probe

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const emulatorPrefix = "qemu-system-"

// targets are the architectures that QEMU has a system emulator for; a file with another suffix is some tool or variant.
var targets = []string{
	"aarch64", "alpha", "arm", "avr", "cris", "hppa", "i386", "loongarch64", "m68k", "microblaze", "microblazeel", "mips",
	"mips64", "mips64el", "mipsel", "nios2", "or1k", "ppc", "ppc64", "riscv32", "riscv64", "rx", "s390x", "sh4", "sh4eb",
	"sparc", "sparc64", "tricore", "x86_64", "xtensa", "xtensaeb",
}

// nativeTargets are the targets that a host can run without emulation, best first, by Go's name of its architecture.
var nativeTargets = map[string][]string{
	"amd64": {"x86_64", "i386"}, "386": {"i386"}, "arm64": {"aarch64", "arm"}, "arm": {"arm"}, "ppc64le": {"ppc64", "ppc"},
	"s390x": {"s390x"}, "riscv64": {"riscv64", "riscv32"}, "loong64": {"loongarch64"}, "mips64le": {"mips64el"},
}

// find returns the paths of the emulators in dirs, the native ones first and the others by name. Of two for one target the one
// in the earlier directory counts. "qemu-kvm" stands in for a missing native emulator: some distributions have no other.
func find(dirs []string, goarch string) []string {
	native := nativeTargets[goarch]
	order := slices.Clone(native)
	for _, target := range targets {
		if !slices.Contains(order, target) {
			order = append(order, target)
		}
	}
	var paths []string
	for _, target := range order {
		if path := first(dirs, namesOf(target, goarch)); path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// findArch returns the path that find has for an architecture's emulator, or "" where there is none.
func findArch(dirs []string, goarch, arch string) string {
	for _, target := range targets {
		if archOf(target) == arch {
			return first(dirs, namesOf(target, goarch))
		}
	}
	return ""
}

// namesOf returns the names of the files that may be a target's emulator, the best first.
func namesOf(target, goarch string) []string {
	names := []string{emulatorPrefix + target}
	if native := nativeTargets[goarch]; len(native) > 0 && native[0] == target {
		names = append(names, "qemu-kvm")
	}
	return names
}

func first(dirs, names []string) string {
	for _, name := range names {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
				return path
			}
		}
	}
	return ""
}

// Native reports whether the binary's guests are of an architecture that this host's CPU runs itself.
func (b *Binary) Native(goarch string) bool {
	return slices.ContainsFunc(nativeTargets[goarch], func(target string) bool { return archOf(target) == b.Arch })
}

// WordSize is the size of a pointer of an architecture in bits.
func WordSize(arch string) int {
	if strings.Contains(arch, "64") || arch == "s390x" || arch == "alpha" {
		return 64
	}
	return 32
}
