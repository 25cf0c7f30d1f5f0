package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / /sys/fs/cgroup/cpu\040set rw,relatime - cgroup cgroup rw,cpuset
34 31 0:31 / /mnt/again rw,relatime - cgroup cgroup rw,cpuset
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
garbage
`

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(hybrid))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{Dir: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{Dir: "/sys/fs/cgroup/cpu set", Controllers: []string{"cpuset"}},
		{Dir: "/sys/fs/cgroup/systemd", Controllers: []string{"name=systemd"}},
		{Dir: "/sys/fs/cgroup/unified", Unified: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(hybrid)
	f.Fuzz(func(t *testing.T, text string) {
		mounts, _ := parseMounts(strings.NewReader(text))
		if len(mounts) > maxMounts {
			t.Errorf("%d mounts", len(mounts))
		}
	})
}

func TestPathsThatLeaveTheHierarchyAreRefused(t *testing.T) {
	for _, path := range []string{"", ".", "/a", "..", "a/../../b", "a//b", "a/"} {
		if _, err := create(nil, path); err == nil {
			t.Errorf("created %q", path)
		}
		if _, err := open(nil, path); err == nil {
			t.Errorf("opened %q", path)
		}
	}
}

func TestGroupsBelowAParent(t *testing.T) {
	mounts := []Mount{{Dir: t.TempDir()}, {Dir: t.TempDir()}, {Dir: filepath.Join(t.TempDir(), "unmounted")}}
	for i, paths := range [][]string{{"lodge/a-1", "lodge/b-1"}, {"lodge/a-1", "lodge/a-2"}} {
		for _, path := range paths {
			if err := os.MkdirAll(filepath.Join(mounts[i].Dir, path), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		parent, prefix string
		want           []string
	}{
		{"lodge", "a-", []string{"lodge/a-1", "lodge/a-2"}},
		{"lodge", "c", nil},
		{"nowhere", "a", nil},
	} {
		got, err := below(mounts, c.parent, c.prefix)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("below %s with %s: %v %s", c.parent, c.prefix, err, diff)
		}
	}
	if _, err := below(mounts, "..", "a"); err == nil {
		t.Error("listed the parent of the hierarchy")
	}
}

// A plain directory stands in for a version 1 cpuset hierarchy: the files are what the package reads and writes.
func TestNewCpusetGroupsInheritTheirParentsCPUs(t *testing.T) {
	root := t.TempDir()
	write := func(dir, cpus string) {
		t.Helper()
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(cpus), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(root, "0-1\n")
	child := filepath.Join(root, "guest")
	if err := os.Mkdir(child, 0o700); err != nil {
		t.Fatal(err)
	}
	write(child, "\n")
	if _, err := create([]Mount{{Dir: root, Controllers: []string{"cpuset"}}}, "guest"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(child, "cpuset.cpus"))
	if err != nil || string(got) != "0-1\n" {
		t.Errorf("cpuset.cpus is %q, %v", got, err)
	}
}

func TestRefusingHierarchiesAreNamedAndTheOthersUsed(t *testing.T) {
	good, missing := t.TempDir(), filepath.Join(t.TempDir(), "missing")
	g, err := create([]Mount{{Dir: missing}, {Dir: good}}, "guest")
	if err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v does not name %s", err, missing)
	}
	if diff := cmp.Diff([]string{filepath.Join(good, "guest/cgroup.procs")}, g.ProcsFiles()); diff != "" {
		t.Error(diff)
	}
}

func TestGroupOfTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := "lodge-test-" + strconv.Itoa(os.Getpid())
	g, err := Create(path + "/guest")
	if g.Empty() {
		t.Skipf("no hierarchy is writable: %v", err)
	}
	again, err := Open(path + "/guest")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(g.ProcsFiles(), again.ProcsFiles()); diff != "" {
		t.Error(diff)
	}
	if pids, err := again.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("processes of an empty group: %v, %v", pids, err)
	}
	if used, ok := again.CPUTime(); ok && used != 0 {
		t.Errorf("an empty group used %v", used)
	}
	for _, p := range []string{path + "/guest", path, path} {
		g, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
}
