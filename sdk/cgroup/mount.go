package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mount is one mounted hierarchy.
type Mount struct {
	// Dir is where it is mounted.
	Dir string
	// Unified says that it is the version 2 hierarchy.
	Unified bool
	// Controllers are those of a version 1 hierarchy, for example "cpu" and "cpuacct"; a named one has "name=systemd".
	Controllers []string
}

// Bounds of what is read from the kernel's table of mounts.
const (
	maxMountLine = 64 << 10
	maxMounts    = 64
)

// controllers are the version 2 controllers that guests' groups get where the host has them.
var controllers = []string{"cpu", "cpuset", "io", "memory", "pids"}

// Mounts returns the hierarchies that are mounted in this process's mount namespace.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control group hierarchies: %w", err)
	}
	defer f.Close()
	mounts, err := parseMounts(f)
	if err != nil {
		return nil, fmt.Errorf("find control group hierarchies: %w", err)
	}
	return mounts, nil
}

// parseMounts reads proc_pid_mountinfo(5); a hierarchy that is mounted twice is taken once.
func parseMounts(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxMountLine)
	for lines.Scan() && len(mounts) < maxMounts {
		before, after, found := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 3 || seen[left[2]] {
			continue
		}
		m := Mount{Dir: unescape(left[4]), Unified: right[0] == "cgroup2"}
		switch right[0] {
		case "cgroup":
			m.Controllers = slices.DeleteFunc(strings.Split(right[2], ","), func(o string) bool { return o == "rw" || o == "ro" })
		case "cgroup2":
		default:
			continue
		}
		seen[left[2]] = true
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// unescape undoes the octal escapes of the kernel's table: space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// makeIn makes the directories of path one by one, and makes each fit to hold processes and further groups.
func makeIn(m Mount, path string) error {
	at := m.Dir
	for _, name := range strings.Split(path, "/") {
		if m.Unified {
			delegate(at)
		}
		parent := at
		at = filepath.Join(at, name)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if slices.Contains(m.Controllers, "cpuset") {
			if err := inherit(parent, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets children of a version 2 group use the controllers. The kernel refuses it for a group that has processes of its
// own; the group still serves to find its processes then, so refusals are left.
func delegate(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	offered := strings.Fields(string(have))
	for _, c := range controllers {
		if slices.Contains(offered, c) {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
	}
}

// inherit gives a new version 1 cpuset its parent's CPUs and memory nodes, without which it takes no process.
func inherit(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(child, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0); err != nil {
			return err
		}
	}
	return nil
}
