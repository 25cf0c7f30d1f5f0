package driver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// lockedFile is a file with a lock on it, as the lock daemon takes it.
func lockedFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
		t.Fatal(err)
	}
	return f
}

// isLocked asks the kernel whether anybody holds the lock of a file.
func isLocked(t testing.TB, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	look := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &look); err != nil {
		t.Fatal(err)
	}
	return look.Type != unix.F_UNLCK
}

// lease sends the driver the descriptor of a lock, which nobody else has then.
func (r *rig) lease(path string) *pb.Lease {
	r.t.Helper()
	var token fdpass.Token
	_, _ = rand.Read(token[:]) // never fails
	r.core.SendFile(token, lockedFile(r.t, path))
	return &pb.Lease{Token: token[:], Resource: path}
}

// answers is a store of what is known of emulators, for drivers that live for one call.
type answers string

func (a answers) path(key string) string {
	return filepath.Join(string(a), hex.EncodeToString([]byte(key)))
}

func (a answers) Get(_ context.Context, key string) ([]byte, bool, error) {
	text, err := os.ReadFile(a.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return text, err == nil, err
}

func (a answers) Put(_ context.Context, key string, value []byte) error {
	return os.WriteFile(a.path(key), value, 0o600)
}

// mission is what a driver is to do before it is killed, and after how many steps that is.
type mission struct {
	Settings plugin.Settings
	Guest    *pb.Guest
	Answers  answers
	Do       string
	Device   string
	Lock     string
	Steps    int
	// Phrase is that of an encrypted disk, or empty.
	Phrase string
}

const missionVariable = "LODGE_TEST_DEVICE_VICTIM"

// TestDeviceVictim is the driver that TestDriverKilledBetweenTheStepsOfAChange kills.
func TestDeviceVictim(t *testing.T) {
	text := os.Getenv(missionVariable)
	if text == "" {
		t.Skip("only runs as a child of TestDriverKilledBetweenTheStepsOfAChange")
	}
	var m mission
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	core := faketest.NewCore(t)
	core.SetSettings(m.Settings)
	d, err := New(core)
	if err != nil {
		t.Fatal(err)
	}
	d.prober = probe.New(probe.Options{Store: m.Answers})
	kill := "device=kill"
	if m.Steps > 0 {
		kill = fmt.Sprintf("device=%d*off->kill", m.Steps)
	}
	if d.points, err = failpoint.Parse(kill); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, core: core, driver: d, guest: m.Guest}
	defer d.Close(context.Background())
	r.recover(nil)
	if m.Phrase != "" {
		r.disks = []*pb.Disk{secretOf("sdb", "volume", "disk", m.Phrase)}
	}
	var leases []*pb.Lease
	if m.Lock != "" {
		leases = append(leases, r.lease(m.Lock))
	}
	switch m.Do {
	case "attach":
		_, err = r.attach(m.Device, leases...)
	case "detach":
		_, err = r.detach(m.Device)
	case "update":
		_, err = r.update(m.Device, true)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// send has a driver do something to the guest in a process of its own, and reports whether it was killed. The rig has no driver meanwhile.
func (r *rig) send(m mission) (killed bool) {
	r.t.Helper()
	r.driver.Close(r.t.Context())
	m.Settings, m.Guest = r.core.Settings(), r.guest
	text, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	victim := exec.CommandContext(r.t.Context(), os.Args[0], "-test.run=^TestDeviceVictim$")
	victim.Env = append(os.Environ(), missionVariable+"="+string(text), "TMPDIR="+r.t.TempDir())
	var said bytes.Buffer
	victim.Stdout, victim.Stderr = &said, &said
	err = victim.Run()
	killed = victim.ProcessState.String() == "signal: killed"
	if err != nil && !killed {
		r.t.Fatalf("after %d steps: %v: %s", m.Steps, err, said.String())
	}
	r.restart()
	return killed
}

// TestDriverKilledBetweenTheStepsOfAChange kills the driver after each step of attaching and detaching a disk and a lease, and of changing a
// medium. Whatever the moment, the guest then has the device as the live definition says, or nothing of it, and its lock with it.
func TestDriverKilledBetweenTheStepsOfAChange(t *testing.T) {
	if testing.Short() {
		t.Skip("kills dozens of drivers")
	}
	disk, lock := diskXML("sdb", "scsi", "qcow2", imageFile(t, "qcow2")), filepath.Join(t.TempDir(), "lock")
	encrypted := strings.Replace(diskXML("sdb", "scsi", "raw", luksImage(t, "luks")), "</disk>",
		"<encryption format='luks'><secret type='passphrase' usage='disk'/></encryption></disk>", 1)
	first, second := imageFile(t, "raw"), imageFile(t, "raw")
	cd := func(path string) string {
		return "<disk type='file' device='cdrom'><source file='" + path + "'/><target dev='hdc' bus='ide'/></disk>"
	}
	r := newHotRig(t, hotplugBase+cd(first))
	store := answers(t.TempDir())
	r.start(false) // a QEMU that runs forgets more when its monitor is left than one that stands
	before := r.inside()
	has := func(what string) bool { return strings.Contains(r.recover(nil).GetLiveXml(), what) }

	count := map[string][2]int{}
	note := func(do string, happened bool) {
		c := count[do]
		if happened {
			c[1]++
		} else {
			c[0]++
		}
		count[do] = c
	}
	for _, c := range []changing{
		{disk, lock, "scsi0-0-0-1", true, before, note, ""},
		{encrypted, lock, "scsi0-0-0-1", true, before, note, phrase},
		{"<lease><lockspace>s</lockspace><key>k</key><target path='" + lock + "'/></lease>", lock, "<key>k</key>", false, before, note, ""},
	} {
		r.cutOff(store, c)
	}
	present, other := first, second
	for steps := 0; r.send(mission{Answers: store, Do: "update", Device: cd(other), Steps: steps}); steps++ {
		changed := has(other)
		note("update", changed)
		if has(present) == changed {
			t.Errorf("killed after %d steps of changing a medium: live xml is %s", steps, r.recover(nil).GetLiveXml())
		}
		r.hasMedium(map[bool]string{true: other, false: present}[changed])
		if changed {
			if _, err := r.update(cd(present), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	for do, c := range count {
		if c[0] == 0 || c[1] == 0 {
			t.Errorf("%s was never cut off both before and after it happened: %v", do, c)
		}
	}
	t.Logf("cut off before and after it happened: %v", count)
	r.recover(nil)
	r.stop()
}

// changing is a device that is attached and detached while drivers are killed.
type changing struct {
	xml, lock string
	sign      string // what a live definition with it has
	inside    bool   // it is also what QEMU knows it by
	before    []string
	note      func(do string, happened bool)
	phrase    string
}

// cutOff kills drivers that attach and detach a device, which QEMU does not have at the end.
func (r *rig) cutOff(store answers, c changing) {
	r.t.Helper()
	if r.disks = nil; c.phrase != "" {
		r.disks = []*pb.Disk{secretOf("sdb", "volume", "disk", c.phrase)}
	}
	has := func() bool { return strings.Contains(r.recover(nil).GetLiveXml(), c.sign) }
	for steps := 0; r.send(mission{Answers: store, Do: "attach", Device: c.xml, Lock: c.lock, Steps: steps, Phrase: c.phrase}); steps++ {
		there := has()
		c.note("attach", there)
		if locked := isLocked(r.t, c.lock); locked != there {
			r.t.Errorf("killed after %d steps of attaching: the device is there: %v, its lock is held: %v", steps, there, locked)
		}
		if c.inside && there != slices.Contains(r.inside(), c.sign) {
			r.t.Errorf("killed after %d steps of attaching: the live definition has the device: %v, QEMU has %v", steps, there, r.inside())
		}
		if there {
			if gone, err := r.detach(c.xml); err != nil || !gone.GetGone() {
				r.t.Fatalf("killed after %d steps of attaching: detaching: %v, %v", steps, gone, err)
			}
		}
		r.same(c.before, fmt.Sprintf("killed after %d steps of attaching", steps))
	}
	r.recover(nil)
	if !isLocked(r.t, c.lock) {
		r.t.Fatal("the lock of an attached device is free")
	}
	for steps := 0; r.send(mission{Answers: store, Do: "detach", Device: c.xml, Steps: steps}); steps++ {
		there := has()
		c.note("detach", !there)
		if locked := isLocked(r.t, c.lock); locked != there {
			r.t.Errorf("killed after %d steps of detaching: the device is there: %v, its lock is held: %v", steps, there, locked)
		}
		if !there {
			r.same(c.before, fmt.Sprintf("killed after %d steps of detaching", steps))
			r.attached(c.xml, r.lease(c.lock))
		}
	}
	r.recover(nil)
	r.same(c.before, "after detaching")
}

// same holds what QEMU has against what it had.
func (r *rig) same(before []string, when string) {
	r.t.Helper()
	if after := r.inside(); !slices.Equal(after, before) {
		r.t.Errorf("%s: QEMU has\n%v, before it had\n%v", when, after, before)
	}
}

// hasMedium holds the medium in the CD drive, and that no other image is open and the tray is closed.
func (r *rig) hasMedium(path string) {
	r.t.Helper()
	var drives []struct {
		QDev     string
		Tray     bool `json:"tray_open"`
		Inserted struct{ File string }
	}
	r.ask("query-block", nil, &drives)
	nodes := 0
	for _, n := range r.inside() {
		if strings.HasPrefix(n, "libvirt-") {
			nodes++
		}
	}
	for _, d := range drives {
		if isDevice(d.QDev, "ide0-1-0") && (d.Inserted.File != path || d.Tray || nodes != 2) {
			r.t.Errorf("drive has %+v and QEMU %d nodes, want %s and 2", d, nodes, path)
		}
	}
}
