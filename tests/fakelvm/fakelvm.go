// Package fakelvm lets LVM run in tests where the kernel has no device-mapper: LVM's own metadata commands work on a loop device with a
// configuration of their own, and what the kernel would do is emulated: an active volume is a file, with a link to it where its node
// would be.
//
// The link is DIR/dev/GROUP/VOLUME, so the pools of a test state DIR/dev/GROUP as their target. Files are kept by the volumes' ids: they
// follow a rename and a resize, and go with the volume. They are not the bytes at the volume's extents. Program is what a
// driver runs then, as its configuration says.
//
// Where the kernel has device-mapper, LVM is still confined to the loop device, volumes are real ones, and the target is /dev/GROUP.
package fakelvm

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
)

// patience is the longest that a program of a test may take on a machine that does much else.
const patience = time.Minute

// LVM is LVM on a device of its own.
type LVM struct {
	// Dir has all of it.
	Dir string
	// Devices are the loop devices.
	Devices []string
	// Emulated says that the kernel has no device-mapper.
	Emulated bool
}

// Start makes loop devices of a size in bytes, and an LVM that sees nothing else. It skips the test where that cannot be done. Both end with
// the test.
func Start(t testing.TB, sizes ...int64) *LVM {
	t.Helper()
	program, err := exec.LookPath("lvm")
	if err != nil || os.Geteuid() != 0 {
		t.Skipf("needs LVM and root: %v", err)
	}
	l := &LVM{Dir: t.TempDir(), Emulated: !mapper()}
	for n, size := range sizes {
		l.Devices = append(l.Devices, Loop(t, filepath.Join(l.Dir, fmt.Sprint("disk", n)), size))
	}
	var filter strings.Builder
	for _, d := range l.Devices {
		fmt.Fprintf(&filter, "\"a|^%s$|\", ", d)
	}
	conf := fmt.Sprintf(`devices { filter=[ %s"r|.*|" ] global_filter=[ %s"r|.*|" ] use_devicesfile=0 obtain_device_list_from_udev=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { event_activation=0 locking_dir="%s" }
backup { backup=0 archive=0 }
`, filter.String(), filter.String(), filepath.Join(l.Dir, "locks"))
	bin, etc := filepath.Join(l.Dir, "bin"), filepath.Join(l.Dir, "etc")
	err = errors.Join(os.Mkdir(bin, 0o755), os.Mkdir(etc, 0o755),
		os.WriteFile(filepath.Join(etc, "lvm.conf"), []byte(conf), 0o644),
		os.WriteFile(l.Program(), []byte(l.script(program)), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Reset(t) })
	return l
}

// Reset removes all groups, and LVM's marks from the devices.
func (l *LVM) Reset(t testing.TB) {
	t.Helper()
	for _, g := range strings.Fields(l.Do(t, "vgs", "--noheadings", "-o", "vg_name")) {
		l.Do(t, "vgremove", "--force", g)
	}
	for _, d := range strings.Fields(l.Do(t, "pvs", "--noheadings", "-o", "pv_name")) {
		l.Do(t, "pvremove", "--yes", d)
	}
}

// mapper reports whether the kernel has device-mapper.
func mapper() bool {
	text, err := os.ReadFile("/proc/devices")
	return err == nil && strings.Contains(string(text), "device-mapper")
}

// Target is where the nodes of a group's volumes are.
func (l *LVM) Target(group string) string {
	if l.Emulated {
		return filepath.Join(l.Dir, "dev", group)
	}
	return "/dev/" + group
}

// Program is the path of what stands in for LVM's program.
func (l *LVM) Program() string { return filepath.Join(l.Dir, "bin", "lvm") }

// Do runs a command of LVM and returns what it prints.
func (l *LVM) Do(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // also when the test ends
	defer cancel()
	cmd := exec.CommandContext(ctx, l.Program(), args...)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("lvm %q: %v: %s", args, err, words.String())
	}
	return string(out)
}

// script is the program that stands in for LVM.
func (l *LVM) script(program string) string {
	if !l.Emulated {
		return fmt.Sprintf("#!/bin/sh\nLVM_SYSTEM_DIR='%s/etc' exec %s \"$@\"\n", l.Dir, program)
	}
	return strings.NewReplacer("@DIR@", l.Dir, "@LVM@", program).Replace(`#!/bin/sh
export LVM_SYSTEM_DIR='@DIR@/etc' LVM_SUPPRESS_FD_WARNINGS=1
command=$1
shift
@LVM@ "$command" --driverloaded n "$@"
status=$?
case $command in
vgchange | vgremove | lvcreate | lvremove | lvrename | lvextend | lvreduce) ;;
*) exit $status ;;
esac
# What the kernel and udev would do now.
exec 9>>'@DIR@/nodes.lock'
flock 9
mkdir -p '@DIR@/dev' '@DIR@/data'
cd '@DIR@/dev' || exit 1
case "$command $*" in
"vgchange -aln "*) rm -rf "./$2"; exit $status ;;
esac
all=$(@LVM@ lvs --driverloaded n --noheadings --separator ' ' -o vg_name,lv_name,lv_uuid,lv_size --units b --nosuffix 2>/dev/null) || exit $status
find . -type l | while read -r link; do
  case "$all " in
  *"$(echo "${link#./}" | tr / ' ') $(basename "$(readlink "$link")")"*) ;;
  *) rm -f "$link" ;;
  esac
done
echo "$all" | while read -r group name id size; do
  [ -n "$size" ] || continue
  mkdir -p "$group"
  truncate -s "$size" "../data/$id"
  ln -sfn "../../data/$id" "$group/$name"
done
rmdir ./* 2>/dev/null
for file in ../data/*; do
  case $all in *"$(basename "$file")"*) ;; *) rm -f "$file" ;; esac
done
exit $status
`)
}

// Loop makes a file of a size in bytes and a loop device of it, with its partitions. It skips the test where none can be had, and the
// device goes with the test.
func Loop(t testing.TB, file string, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	losetup := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, "losetup", args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	device, err := losetup("--find", "--show", "--partscan", file)
	if err != nil {
		t.Skipf("no loop device can be had: %s", device)
	}
	t.Cleanup(func() {
		if out, err := losetup("--detach", device); err != nil {
			t.Errorf("loop device %s stays: %s", device, out)
		}
	})
	return device
}
