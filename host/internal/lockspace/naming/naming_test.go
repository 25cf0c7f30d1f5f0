package naming

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// rig is a namer with its own devices and tools.
type rig struct {
	*Namer
	t     *testing.T
	tools string
}

func newRig(t *testing.T, folders Folders) *rig {
	t.Helper()
	r := &rig{Namer: New(folders), t: t, tools: t.TempDir()}
	r.devices, r.blocks = t.TempDir(), t.TempDir()
	t.Setenv("PATH", r.tools+":"+os.Getenv("PATH"))
	return r
}

// node makes a block device node of a number.
func (r *rig) node(name string, minor uint32) string {
	r.t.Helper()
	path := filepath.Join(r.devices, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(253, minor))); err != nil {
		r.t.Skip("needs device nodes: ", err)
	}
	return path
}

// tool makes a program that counts its runs, checks its arguments but for the last, and then does what the script says.
func (r *rig) tool(name, args, script string) {
	r.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\necho >>%s/%s.runs\n", r.tools, name)
	text += "for path; do :; done\ngot=\"${*% *}\"\n[ \"$got\" = '" + args + "' ] || { echo wrong arguments; exit 0; }\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(r.tools, name), []byte(text), 0o700); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) lvs(script string) {
	r.tool("lvs", "--noheadings --unbuffered --nosuffix --options uuid", script)
}

func (r *rig) scsiID(script string) {
	r.tool("scsi_id", "--replace-whitespace --whitelisted --device", script)
}

func (r *rig) runs(name string) int {
	text, err := os.ReadFile(filepath.Join(r.tools, name+".runs"))
	if err != nil {
		return 0
	}
	return len(text)
}

func (r *rig) name(path string) lockspace.Resource {
	r.t.Helper()
	res, err := r.Disk(r.t.Context(), path, lockspace.Shared)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.Mode != lockspace.Shared || res.Disk != path || res.Check() != nil {
		r.t.Fatalf("lock of %q is %+v", path, res)
	}
	return res
}

const (
	volume = "G6eoyC-FvPf-oIro-S41a-KqSw-scac-YW9ZBl"
	unit   = "36001405f8a5e2ef6f4b4d3a9e2c1b7d8"
)

func TestKindOfDiskChoosesFolderAndName(t *testing.T) {
	all := Folders{File: "/locks/file", LVM: "/locks/lvm", SCSI: "/locks/scsi"}
	for _, c := range []struct {
		name    string
		folders Folders
		path    string
		want    string // folder and name; HASH for the hash of the path, PATH for the path itself
	}{
		{"volume", all, "vg/lv", "/locks/lvm/" + volume},
		{"unit", all, "sda", "/locks/scsi/" + unit},
		{"volume without its folder", Folders{File: "/f", SCSI: "/s"}, "vg/lv", "/f/HASH"},
		{"unit without its folder", Folders{File: "/f", LVM: "/l"}, "sda", "/f/HASH"},
		{"unit without a folder for files", Folders{SCSI: "/s"}, "sda", "/s/" + unit},
		{"device that is neither", all, "loop0", "/locks/file/HASH"},
		{"device that is neither, without a folder for files", Folders{LVM: "/l", SCSI: "/s"}, "loop0", "PATH"},
		{"no folders", Folders{}, "vg/lv", "PATH"},
		{"file among devices", all, "shm/image", "/locks/file/HASH"},
		{"volume that is not active", all, "vg/idle", "/locks/lvm/" + volume},
		{"missing device", all, "nothing", "/locks/file/HASH"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.folders)
			r.lvs(`case $path in */vg/*) echo "  ` + volume + `";; *) exit 5;; esac`)
			r.scsiID(`case $path in */sda) echo ` + unit + `;; *) exit 1;; esac`)
			r.node("vg/lv", 1)
			r.node("sda", 2)
			r.node("loop0", 3)
			if err := os.MkdirAll(filepath.Join(r.devices, "shm"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(r.devices, "shm/image"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(r.devices, c.path)
			want := strings.ReplaceAll(c.want, "HASH", lockspace.ForDisk("/", path, false).Name)
			want = strings.ReplaceAll(want, "PATH", path)
			got := r.name(path)
			if got.Path() != want || got.Temporary != (got.Lockspace != "") {
				t.Errorf("lock is %+v, want %q", got, want)
			}
		})
	}
	r := newRig(t, all)
	if got := r.name("/images/a"); got.Path() != lockspace.ForDisk("/locks/file", "/images/a", false).Path() {
		t.Errorf("lock of a file is %+v", got)
	}
}

func TestNamesAreRememberedByDevice(t *testing.T) {
	r := newRig(t, Folders{LVM: "/l", SCSI: "/s"})
	r.lvs(`case $path in */vg/*) echo ` + volume + `;; *) exit 5;; esac`)
	r.scsiID("exit 1")
	lv, other := r.node("vg/lv", 1), r.node("sdb", 2)
	alias := filepath.Join(r.devices, "alias")
	if err := os.Symlink(lv, alias); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := r.name(lv).Name; got != volume {
			t.Errorf("name %q", got)
		}
		r.name(other)
	}
	if got := r.name(alias).Name; got != volume {
		t.Errorf("name by another path %q", got)
	}
	if n, m := r.runs("lvs"), r.runs("scsi_id"); n != 2 || m != 1 {
		t.Errorf("lvs ran %d times, scsi_id %d times", n, m)
	}
	// The number is used again for another volume.
	if err := os.Remove(lv); err != nil {
		t.Fatal(err)
	}
	r.node("vg/lv", 1)
	r.name(lv)
	if n := r.runs("lvs"); n != 3 {
		t.Errorf("lvs ran %d times", n)
	}
}

func TestVolumeByAnotherNameIsKnownToTheKernel(t *testing.T) {
	r := newRig(t, Folders{File: "/f", LVM: "/l"})
	r.lvs("exit 5")
	path := r.node("dm-7", 7)
	dm := filepath.Join(r.blocks, "253:7", "dm")
	if err := os.MkdirAll(dm, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "LVM-" + strings.Repeat("g", 32) + strings.ReplaceAll(volume, "-", "") + "\n"
	if err := os.WriteFile(filepath.Join(dm, "uuid"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.name(path); got.Path() != "/l/"+volume {
		t.Errorf("lock is %+v", got)
	}
}

func TestNameThatIsNotCertainIsAnError(t *testing.T) {
	for _, c := range []struct{ name, lvs, scsi string }{
		{"lvs is killed", "kill -9 $$", "exit 1"},
		{"lvs says something else", "echo yes", "exit 1"},
		{"scsi_id is killed", "exit 5", "kill -9 $$"},
		{"scsi_id names a path", "exit 5", "echo ../../etc/passwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Folders{File: "/f", LVM: "/l", SCSI: "/s"})
			r.lvs(c.lvs)
			r.scsiID(c.scsi)
			if got, err := r.Disk(t.Context(), r.node("x", 9), false); !errors.Is(err, ErrTool) {
				t.Errorf("lock is %+v, %v, want ErrTool", got, err)
			}
		})
	}
	t.Run("lvs is missing", func(t *testing.T) {
		r := newRig(t, Folders{File: "/f", LVM: "/l"})
		t.Setenv("PATH", r.tools)
		if _, err := os.Stat(places["lvs"]); err == nil {
			t.Skip("lvs is installed")
		}
		if _, err := r.Disk(t.Context(), r.node("x", 9), false); !errors.Is(err, ErrTool) {
			t.Errorf("error %v, want ErrTool", err)
		}
	})
	t.Run("lvs hangs", func(t *testing.T) {
		r := newRig(t, Folders{File: "/f", LVM: "/l"})
		r.lvs("exec sleep 600")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.Disk(ctx, r.node("x", 9), false); !errors.Is(err, ErrTool) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestLargeOutputIsBounded(t *testing.T) {
	r := newRig(t, Folders{SCSI: "/s"})
	r.scsiID("head -c 100000 /dev/zero | tr '\\0' a")
	res := r.name(r.node("x", 9))
	if len(res.Name) != maxOutput {
		t.Errorf("name of %d bytes", len(res.Name))
	}
}

// A group on a loop device, which needs no device mapper as long as no volume is active.
func TestRealVolume(t *testing.T) {
	for _, tool := range []string{"losetup", "pvcreate", "vgcreate", "lvcreate", "lvs"} {
		if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
			t.Skip("needs lvm2 and root")
		}
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "pv.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 100<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skip("needs loop devices: ", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", loop).Run(); err != nil {
			t.Error(err)
		}
	})
	conf := fmt.Sprintf("devices { filter=[\"a|^%s$|\",\"r|.*|\"] use_devicesfile=0 obtain_device_list_from_udev=0 }\n", loop) +
		"activation { udev_sync=0 udev_rules=0 monitoring=0 }\nglobal { event_activation=0 }\n"
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LVM_SYSTEM_DIR", dir)
	group := fmt.Sprintf("lodge%d", os.Getpid())
	for _, args := range [][]string{
		{"pvcreate", "-y", loop},
		{"vgcreate", "--driverloaded", "n", group, loop},
		{"lvcreate", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-n", "lv1", "-L", "32M", group},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	n := New(Folders{File: "/f", LVM: "/l"})
	got, err := n.Disk(t.Context(), "/dev/"+group+"/lv1", false)
	if err != nil || got.Lockspace != "/l" || !volumeID.MatchString(got.Name) {
		t.Errorf("lock is %+v, %v", got, err)
	}
	for _, path := range []string{"/dev/" + group + "/lv2", loop} {
		if got, err := n.Disk(t.Context(), path, false); err != nil || got.Lockspace != "/f" {
			t.Errorf("lock of %q is %+v, %v", path, got, err)
		}
	}
}
