// Package cgroup puts a guest into a control group of its own on hosts of any kind: the version 1 hierarchies, the unified version
// 2 hierarchy, and hybrid hosts that have both.
//
// A group is named by one path relative to the root of each hierarchy, the same in all of them. The package keeps no state: the
// kernel's directories are the state, so a group made by one process can be opened by another. Who creates a group removes it,
// after its last process is gone. Every function may be called concurrently for different groups.
//
// Control groups are a help for finding and measuring guests, never a condition of running them: Create reports which hierarchies
// refused (a user without privileges, a read-only mount) together with a group of those that did not.
//
// Facts about the file formats: Linux, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxProcesses bounds the processes that are read from a group.
const maxProcesses = 1 << 16

// ErrBadPath is returned for a path that is empty, absolute, or leads out of the hierarchy.
var ErrBadPath = errors.New("control group path must be relative and clean")

// Group is a control group in the hierarchies where it exists. It is immutable and safe concurrently.
type Group struct {
	path string
	dirs []dir
}

type dir struct {
	mount Mount
	path  string
}

// Create makes the group and its parents in every mounted hierarchy. A group that exists already is joined. The error joins
// what each hierarchy that refused said; the group holds the others, maybe none.
func Create(path string) (*Group, error) {
	mounts, err := Mounts()
	if err != nil {
		return &Group{path: path}, err
	}
	return create(mounts, path)
}

func create(mounts []Mount, path string) (*Group, error) {
	g := &Group{path: path}
	if !valid(path) {
		return g, fmt.Errorf("create control group %q: %w", path, ErrBadPath)
	}
	var errs []error
	for _, m := range mounts {
		if err := makeIn(m, path); err != nil {
			errs = append(errs, fmt.Errorf("create control group %q in %s: %w", path, m.Dir, err))
			continue
		}
		g.dirs = append(g.dirs, dir{mount: m, path: filepath.Join(m.Dir, path)})
	}
	return g, errors.Join(errs...)
}

// Open finds the group in the hierarchies where it exists; one that exists nowhere is empty and no error.
func Open(path string) (*Group, error) {
	mounts, err := Mounts()
	if err != nil {
		return &Group{path: path}, err
	}
	return open(mounts, path)
}

func open(mounts []Mount, path string) (*Group, error) {
	g := &Group{path: path}
	if !valid(path) {
		return g, fmt.Errorf("open control group %q: %w", path, ErrBadPath)
	}
	for _, m := range mounts {
		p := filepath.Join(m.Dir, path)
		if _, err := os.Stat(p); err == nil {
			g.dirs = append(g.dirs, dir{mount: m, path: p})
		}
	}
	return g, nil
}

// Below returns the paths of the groups directly below parent whose name begins with prefix, in any hierarchy, without
// duplicates. A parent that exists nowhere has none.
func Below(parent, prefix string) ([]string, error) {
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	return below(mounts, parent, prefix)
}

func below(mounts []Mount, parent, prefix string) ([]string, error) {
	if !valid(parent) {
		return nil, fmt.Errorf("list control groups in %q: %w", parent, ErrBadPath)
	}
	var paths []string
	for _, m := range mounts {
		entries, err := os.ReadDir(filepath.Join(m.Dir, parent))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return paths, fmt.Errorf("list control groups in %q: %w", parent, err)
		}
		for _, e := range entries {
			path := filepath.Join(parent, e.Name())
			if e.IsDir() && strings.HasPrefix(e.Name(), prefix) && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

func valid(path string) bool {
	return path != "" && path != "." && filepath.IsLocal(path) && filepath.Clean(path) == path
}

// Empty reports that the group exists in no hierarchy.
func (g *Group) Empty() bool { return len(g.dirs) == 0 }

// ProcsFiles returns the files into which a process writes 0 to join the group, itself with all its threads and later children.
func (g *Group) ProcsFiles() []string {
	files := make([]string, 0, len(g.dirs))
	for _, d := range g.dirs {
		files = append(files, filepath.Join(d.path, "cgroup.procs"))
	}
	return files
}

// Processes returns the processes that are in the group in any hierarchy, without duplicates, at most 65536.
func (g *Group) Processes() ([]int, error) {
	var pids []int
	var errs []error
	seen := map[int]bool{}
	for _, d := range g.dirs {
		text, err := os.ReadFile(filepath.Join(d.path, "cgroup.procs"))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("list processes of control group %q: %w", g.path, err))
			}
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err == nil && pid > 0 && !seen[pid] && len(pids) < maxProcesses {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, errors.Join(errs...)
}

// CPUTime returns the CPU time that the group has used, or ok false where no hierarchy counts it.
func (g *Group) CPUTime() (used time.Duration, ok bool) {
	for _, d := range g.dirs {
		if text, err := os.ReadFile(filepath.Join(d.path, "cpuacct.usage")); err == nil {
			if ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
				return time.Duration(ns), true
			}
		}
	}
	for _, d := range g.dirs {
		if text, err := os.ReadFile(filepath.Join(d.path, "cpu.stat")); err == nil {
			if us, ok := statValue(string(text), "usage_usec"); ok {
				return time.Duration(us) * time.Microsecond, true
			}
		}
	}
	return 0, false
}

func statValue(text, key string) (int64, bool) {
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if found && name == key {
			n, err := strconv.ParseInt(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// Remove removes the group from each hierarchy. A group with processes in it is left alone and reported; one that is gone
// already is no error. The parents stay.
func (g *Group) Remove() error {
	var errs []error
	for _, d := range g.dirs {
		if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove control group %q: %w", g.path, err))
		}
	}
	return errors.Join(errs...)
}
