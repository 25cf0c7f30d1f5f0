package driver

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// program is the only one of the guest's: it obeys its serial port, and the power button if it has the modules for that.
const program = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m 2>/dev/null; done
for e in /dev/input/event*; do
	[ -e $e ] || continue
	exec 3<$e
	(dd of=/dev/null bs=24 count=1 <&3 2>/dev/null && poweroff -f) &
done
echo the guest is up
while read -r line; do
	echo "it said $line"
	eval "$line" 2>/dev/null
done
`

// modules are those that the guest loads, in this order: a virtio disk, the power button, and the panic device.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "evdev", "button",
	"pvpanic", "pvpanic-mmio",
}

// barker is a program for x86-64 that starts an iB700 watchdog with the shortest time: it writes 15 to the port 0x443.
func barker() []byte {
	code := []byte{
		0xbf, 0x43, 0x04, 0, 0, 0xbe, 1, 0, 0, 0, 0xba, 1, 0, 0, 0, 0xb8, 173, 0, 0, 0, 0x0f, 0x05, // ioperm(0x443, 1, 1)
		0xba, 0x43, 0x04, 0, 0, 0xb0, 15, 0xee, // outb(15, 0x443)
		0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, // exit(0)
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	file := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}
	var out bytes.Buffer
	for _, part := range []any{file, segment, code} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			panic(err) // a buffer takes all, and the sizes are fixed
		}
	}
	return out.Bytes()
}

// archive is an initramfs: initramfs buffer format, Linux, Documentation/driver-api/early-userspace.
type archive struct{ bytes.Buffer }

func (a *archive) add(name string, mode int, content []byte) {
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.Write(make([]byte, -a.Len()&3))
	a.Write(content)
	a.Write(make([]byte, -a.Len()&3))
}

// kernel returns a kernel to boot, and an initramfs for it.
func kernel(t *testing.T) (vmlinuz, initrd string) {
	t.Helper()
	kernels, err := filepath.Glob("/boot/vmlinuz-*")
	busybox, missing := exec.LookPath("busybox")
	if err != nil || len(kernels) == 0 || missing != nil {
		t.Skip("no kernel in /boot, or no busybox")
	}
	vmlinuz = kernels[len(kernels)-1]
	shell, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	var a archive
	a.add("bin", 0o40755, nil)
	a.add("bin/busybox", 0o100755, shell)
	a.add("bin/barker", 0o100755, barker())
	a.add("modules", 0o40755, nil)
	for i, m := range modules {
		version := strings.TrimPrefix(filepath.Base(vmlinuz), "vmlinuz-")
		paths, err := filepath.Glob("/lib/modules/" + version + "/kernel/drivers/*/" + m + ".ko")
		deeper, err2 := filepath.Glob("/lib/modules/" + version + "/kernel/drivers/*/*/" + m + ".ko")
		if err != nil || err2 != nil || len(paths)+len(deeper) == 0 {
			t.Logf("the kernel has no module %s", m)
			continue
		}
		content, err := os.ReadFile(append(paths, deeper...)[0])
		if err != nil {
			t.Fatal(err)
		}
		a.add(fmt.Sprintf("modules/%02d-%s", i, m), 0o100644, content)
	}
	a.add("init", 0o100755, []byte(program))
	a.add("TRAILER!!!", 0, nil)
	// It is not compressed: to unpack is the longest part of a boot without KVM.
	initrd = filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(initrd, a.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return vmlinuz, initrd
}

// smallDisk is an image of 16 MiB on a file system that has less, which only this test's thread and its guest see. grow makes
// room for it.
func smallDisk(t *testing.T) (path string, grow func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("no mounts of our own: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path = filepath.Join(dir, "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	return path, func() {
		if err := unix.Mount("small", dir, "tmpfs", unix.MS_REMOUNT, "size=32m"); err != nil {
			t.Error(err)
		}
	}
}

// trail reads what is told of a guest, change by change.
type trail struct {
	r    *rig
	read int
}

// expect waits for changes with their description: state/reason of each, and what its events are. Changes that were not expected are
// passed over if they may come any number of times.
func (tr *trail) expect(want ...string) {
	tr.r.t.Helper()
	for _, w := range want {
		for {
			tr.read++
			got := describe(tr.r.core.WaitEvents(tr.r.t, tr.read)[tr.read-1].GetChange())
			if got == w {
				break
			}
			if !repeats(got) {
				tr.r.t.Fatalf("heard %q, want %q", got, w)
			}
		}
	}
}

// skip passes over what was told so far.
func (tr *trail) skip() { tr.read = len(tr.r.core.Events()) }

// reset is the description of a reset.
const reset = "- reboot"

// repeats says of a description that it may come any number of times: a firmware that is started a second time resets the machine once
// more, or twice, and each request of a disk that was under way when its guest was paused fails for itself.
func repeats(change string) bool { return change == reset || strings.HasPrefix(change, "- ioerror ") }

func describe(c *pb.Change) string {
	words := []string{"-"}
	if c.GetState() != pb.State_STATE_UNSPECIFIED {
		words[0] = fmt.Sprintf("%s/%d", strings.ToLower(strings.TrimPrefix(c.GetState().String(), "STATE_")), c.GetReason())
	}
	for _, e := range c.GetEvents() {
		switch {
		case e.GetLifecycle() != nil:
			words = append(words, fmt.Sprintf("lifecycle/%d/%d", e.GetLifecycle().GetEvent(), e.GetLifecycle().GetDetail()))
		case e.GetIoError() != nil:
			words = append(words, fmt.Sprintf("ioerror %s %q", e.GetIoError().GetAlias(), e.GetIoError().GetReason()))
		case e.GetWatchdog() != nil:
			words = append(words, fmt.Sprintf("watchdog/%d", e.GetWatchdog().GetAction()))
		case e.GetReboot() != nil:
			words = append(words, "reboot")
		}
	}
	return strings.Join(words, " ")
}

// One guest with a kernel has all of it happen to it, for each boot takes seconds.
func TestWhatHappensToALinuxGuestIsTold(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest several times")
	}
	t.Parallel()
	vmlinuz, initrd := kernel(t)
	disk, grow := smallDisk(t)
	r := newRigWith(t, `<memory unit='MiB'>128</memory><os><type machine='pc'>hvm</type><kernel>`+vmlinuz+`</kernel><initrd>`+initrd+`</initrd>
		<cmdline>console=ttyS0 quiet</cmdline></os><features><acpi/></features><on_crash>restart</on_crash><devices>
		<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='`+disk+`'/><target dev='vda' bus='virtio'/></disk>
		<serial type='pty'/><console type='pty'/><watchdog model='ib700' action='pause'/><panic model='isa'/></devices>`)
	r.start(true)
	console := r.open(false)
	defer console.Close()
	say := func(line string) { fmt.Fprintln(console, line) }
	resume := func() {
		t.Helper()
		if _, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest}); err != nil {
			t.Fatal(err)
		}
	}
	heard := &trail{r: r}
	resume()
	expect(t, console, "the guest is up")

	say("barker")
	heard.expect("paused/6 watchdog/1 lifecycle/3/3")
	resume()
	say(`dd if=/dev/zero of=/dev/vda bs=64k count=128 conv=fsync && echo all is written`)
	heard.expect(`paused/5 ioerror virtio-disk0 "enospc" lifecycle/3/2`)
	grow()
	resume()
	expect(t, console, "all is written")

	say("echo c > /proc/sysrq-trigger")
	heard.expect("crashed/1 lifecycle/8/0", reset, "running/5 lifecycle/4/0")
	expect(t, console, "the guest is up")
	if _, err := r.driver.Reboot(t.Context(), &pb.RebootRequest{Guest: r.guest, Modes: guest.ModeACPI}); err != nil {
		t.Fatal(err)
	}
	heard.expect("shutdown/0 lifecycle/6/1", reset, "running/5 lifecycle/4/0")
	expect(t, console, "the guest is up")
	heard.skip()
	say("reboot -f")
	heard.expect(reset)
	r.stop()
}
