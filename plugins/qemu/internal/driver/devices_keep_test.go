package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// TestGuestKeepsTheLocksThatItGetsLater has the locks of a guest that was suspended, resumed and given a disk held by QEMU alone.
func TestGuestKeepsTheLocksThatItGetsLater(t *testing.T) {
	r := newHotRig(t, hotplugBase)
	dir := t.TempDir()
	first, second, disk := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "disk")
	for _, path := range []string{first, second, disk} {
		lockedFile(t, path).Close()
	}
	held := func(when string, want ...string) {
		t.Helper()
		for range 2 { // whoever is in charge, or nobody
			for _, path := range []string{first, second, disk} {
				if got := isLocked(t, path); got != slices.Contains(want, path) {
					t.Errorf("%s: lock of %s is held: %v", when, filepath.Base(path), got)
				}
			}
			r.restart()
			r.recover(nil)
		}
	}
	pid := int(r.start(false).GetHandle().GetPid())
	turn := func(paths ...string) {
		t.Helper()
		if _, err := r.driver.Suspend(t.Context(), &pb.SuspendRequest{Guest: r.guest}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{first, second, disk} {
			r.unlock(pid, path)
		}
		leases := []*pb.Lease{{Resource: "one without a descriptor"}}
		for _, path := range paths {
			leases = append(leases, r.lease(path))
		}
		if _, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest, Leases: leases}); err != nil {
			t.Fatal(err)
		}
	}
	held("after the start")
	turn(first, second)
	held("after it was resumed", first, second)
	device := r.attached(diskXML("sda", "usb", "raw", imageFile(t, "raw")), r.lease(disk)).GetDeviceXml()
	held("after a disk was attached", first, second, disk)
	turn(first, disk)
	held("after it was resumed again", first, disk)
	if _, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest, Leases: []*pb.Lease{r.lease(second)}}); err == nil {
		t.Error("a guest that runs was resumed")
	}
	r.unlock(pid, second)
	turn(second)
	held("after only one was taken again", second)
	if gone, err := r.detach(device); err != nil || !gone.GetGone() {
		t.Errorf("detaching: %v, %v", gone, err)
	}
	lease := "<lease><lockspace>space</lockspace><key>k</key><target path='" + disk + "'/></lease>"
	if rsp := r.attached(lease, r.lease(disk)); len(rsp.GetChange().GetEvents()) != 0 || !strings.Contains(rsp.GetLiveXml(), "<key>k</key>") {
		t.Errorf("attaching a lease: %v", rsp)
	}
	held("after a lease was attached", second, disk)
	if gone, err := r.detach(lease); err != nil || !gone.GetGone() || strings.Contains(gone.GetLiveXml(), "<lease>") {
		t.Errorf("detaching a lease: %v, %v", gone, err)
	}
	held("after the lease was detached", second)
	r.stop()
	for _, path := range []string{first, second, disk} {
		if isLocked(t, path) {
			t.Errorf("lock of %s is held after the guest's end", path)
		}
	}
}

// unlock frees the locks of a file that a process holds, as the lock daemon does with the descriptors that it takes back.
func (r *rig) unlock(pid int, path string) {
	r.t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(process)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		number, _ := strconv.Atoi(e.Name())
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, number)); err != nil || link != path {
			continue
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			r.t.Skipf("descriptors of other processes cannot be had: %v", err)
		}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}); err != nil {
			r.t.Error(err)
		}
		unix.Close(fd)
	}
}

func TestFilesOfDevicesBelongToTheGuestWhileItHasThem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run guests as others")
	}
	f := makeFiles(t)
	r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type></os><features><acpi/></features>
		<seclabel type='static' model='dac' relabel='yes'><label>+4321:+4322</label></seclabel><devices>`+hotplugBase+
		`<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk></devices>`)
	passable(t, r.core.Settings().RuntimeDir)
	r.start(false)
	owned := func(when string, disk, base uint32) {
		t.Helper()
		if d, b := owner(t, f.disk), owner(t, f.base); d != disk || b != base {
			t.Errorf("%s: the files belong to users %d and %d, want %d and %d", when, d, b, disk, base)
		}
	}
	disk := diskXML("sda", "usb", "raw", f.disk)
	if _, err := r.attach(strings.Replace(disk, "'raw'", "'vmdk'", 1)); err == nil {
		t.Error("an image of another format was attached")
	}
	owned("after an attach that failed", 1234, 1234)
	r.attached(disk)
	owned("with the disk", 4321, 1234)
	cd := "<disk type='file' device='cdrom'><source file='" + f.base + "'/><target dev='hdc' bus='ide'/></disk>"
	if _, err := r.update(cd, false); err != nil {
		t.Fatal(err)
	}
	owned("with the medium, too", 4321, 4321)
	r.restart()
	r.recover(nil)
	if _, err := r.update("<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>", false); err != nil {
		t.Fatal(err)
	}
	owned("without the medium", 4321, 1234)
	if _, err := r.detach(disk); err != nil {
		t.Fatal(err)
	}
	owned("without both", 1234, 1234)
	r.attached(disk)
	r.stop()
	owned("after the guest's end", 1234, 1234)
}

func TestTapOfACardComesAndGoesWithIt(t *testing.T) {
	alone(t)
	r := newHotRig(t, hotplugBase)
	r.start(false)
	card := "<interface type='ethernet'><mac address='52:54:00:01:02:03'/><target dev='mine'/><model type='%s'/></interface>"
	if _, err := r.attach(fmt.Sprintf(card, "fish")); err == nil {
		t.Error("a card of an unknown model was attached")
	}
	if got := linkNames(t); got != "lo theirs" {
		t.Errorf("links after an attach that failed are %q", got)
	}
	rsp := r.attached(fmt.Sprintf(card, "usb-net"))
	if got := linkNames(t); got != "lo theirs mine" {
		t.Errorf("links with the card are %q", got)
	}
	if gone, err := r.detach(rsp.GetDeviceXml()); err != nil || !gone.GetGone() {
		t.Errorf("detaching: %v, %v", gone, err)
	}
	for range 100 { // the kernel removes it soon after its last descriptor is closed
		if linkNames(t) == "lo theirs" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := linkNames(t); got != "lo theirs" {
		t.Errorf("links without the card are %q", got)
	}
	r.stop()
}

// TestLinuxGuestGetsADiskAndGivesItUp has a guest with a system, which has a say in it.
func TestLinuxGuestGetsADiskAndGivesItUp(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	t.Parallel()
	vmlinuz, initrd := kernel(t)
	r := newRigWith(t, `<memory unit='MiB'>128</memory><os><type machine='pc'>hvm</type><kernel>`+vmlinuz+`</kernel><initrd>`+initrd+
		`</initrd><cmdline>console=ttyS0 quiet</cmdline></os><features><acpi/></features><devices><serial type='pty'/><console type='pty'/></devices>`)
	r.start(true)
	console := r.open(false)
	defer console.Close()
	if _, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest}); err != nil {
		t.Fatal(err)
	}
	expect(t, console, "the guest is up")
	path := imageFile(t, "raw")
	before := r.inside()
	for _, target := range []string{"vda", "vdc"} {
		rsp := r.attached(diskXML(target, "virtio", "raw", path))
		fmt.Fprintln(console, "while ! [ -e /dev/vda ]; do sleep 0.1; done; echo bytes > /dev/vda; sync; echo it is \"\"written")
		expect(t, console, "it is written")
		if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "bytes\n") {
			t.Errorf("the guest has not written to its disk: %v", err)
		}
		gone, err := r.detach(rsp.GetDeviceXml())
		if err != nil || !gone.GetGone() || len(gone.GetChange().GetEvents()) != 1 {
			t.Fatalf("detaching: %v, %v", gone, err)
		}
		fmt.Fprintln(console, "[ -e /dev/vda ] || echo no disk is \"\"left")
		expect(t, console, "no disk is left")
		r.same(before, "after detaching")
	}
	r.stop()
}

// TestTrayThatTheGuestClosesIsOpenedAgain changes media while the tray is closed again and again, as a guest's firmware does when it starts.
func TestTrayThatTheGuestClosesIsOpenedAgain(t *testing.T) {
	f := makeFiles(t)
	r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type></os><devices>`+hotplugBase+
		`<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk></devices>`)
	r.start(true)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				r.ask("blockdev-close-tray", map[string]string{"id": "ide0-1-0"}, nil)
			}
		}
	}()
	for n := range 40 {
		source := ""
		if n%2 == 0 {
			source = "<source file='" + f.base + "'/>"
		}
		if _, err := r.update("<disk type='file' device='cdrom'>"+source+"<target dev='hdc' bus='ide'/></disk>", false); err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
	}
	close(stop)
	<-stopped
	r.stop()
}
