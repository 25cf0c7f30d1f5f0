package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
)

const (
	iscsiTarget = "iqn.2012-11.org.lodge.test:disks"
	iscsiSelf   = "iqn.2012-11.org.lodge.test:self"
	chapSecret  = "12345678-0000-4000-8000-000000000002"
)

// target is a tgtd with a target of two disks, on loopback, with a control port of its own.
type target struct {
	t       *testing.T
	port    string
	control string
	process *os.Process
	disks   []string
}

// startTarget starts a tgtd, which ends with the test.
func startTarget(t *testing.T) *target {
	t.Helper()
	need(t, "tgtd", "tgtadm")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	number := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	s := &target{t: t, port: strconv.Itoa(number), control: strconv.Itoa(number & 0x7fff)}
	cmd := exec.Command("tgtd", "-f", "--control-port", s.control, "--iscsi", "portal=127.0.0.1:"+s.port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		_ = os.Remove("/var/run/tgtd/socket." + s.control)
		_ = os.Remove("/var/run/tgtd/socket." + s.control + ".lock")
	})
	eventually(t, answerWait, func() error { return s.try("--op", "show", "--mode", "system") })
	s.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", iscsiTarget)
	for n := 1; n <= 2; n++ {
		f, err := os.CreateTemp("", "le-disk-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(f.Name()) })
		if err := errors.Join(f.Truncate(16<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
		s.disks = append(s.disks, f.Name())
		s.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", strconv.Itoa(n), "-b", f.Name())
	}
	s.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
	return s
}

func (s *target) try(args ...string) error {
	out, err := exec.Command("tgtadm", append([]string{"-C", s.control, "--lld", "iscsi"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("tgtadm: %w: %s", err, out)
	}
	return nil
}

func (s *target) admin(args ...string) {
	s.t.Helper()
	if err := s.try(args...); err != nil {
		s.t.Fatal(err)
	}
}

// pool is the definition of a pool on the target.
func (s *target) pool(auth string) string {
	return fmt.Sprintf("<pool type='iscsi-direct'><name>p</name><source><host name='127.0.0.1' port='%s'/><device path='%s'/><initiator><iqn name='%s'/></initiator>%s</source></pool>",
		s.port, iscsiTarget, iscsiSelf, auth)
}

// iscsiHost starts a host whose iSCSI driver has libiscsi.
func iscsiHost(t *testing.T) *rig.Host {
	t.Helper()
	need(t, "virsh")
	h := newHost(t)
	settings := filepath.Join(h.Dir, "etc", "plugins.d")
	err := errors.Join(os.MkdirAll(settings, 0o755), os.WriteFile(filepath.Join(settings, "iscsi.toml"), []byte("[config]\ntimeout_seconds = 2\n"), 0o600))
	if err == nil {
		err = h.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(virsh(t, h, qemuURI, "pool-capabilities"), "<pool type='iscsi-direct' supported='yes'") {
		t.Skip("the driver was built without libiscsi (make deps)")
	}
	return h
}

// iscsiCommands tell the life of a pool on a target; FILE is its definition, PORT the target's.
var iscsiCommands = []command{
	{name: "a server is asked for targets", args: "find-storage-pool-sources-as iscsi-direct 127.0.0.1 PORT " + iscsiSelf, want: `<device path='` + iscsiTarget + `'/>`},
	{name: "and the driver lives", args: "pool-capabilities", want: `<pool type='iscsi-direct' supported='yes'`},
	{name: "a pool is defined", args: "pool-define FILE", want: `Pool p defined`},
	{name: "and started", args: "pool-start p", want: `Pool p started`},
	{name: "and refreshed", args: "pool-refresh p", want: `Pool p refreshed`},
	{name: "its size is that of the disks", args: "pool-info p", want: `(?s)State: +running.*Capacity: +32\.00 MiB.*Available: +0\.00 B`},
	{name: "disks are volumes, and controllers are not", args: "vol-list p --details", want: `(?s)---\n unit:0:0:1 +ip-127\.0\.0\.1:PORT-iscsi-` + iscsiTarget + `-lun-1 +network +16\.00 MiB.*\n unit:0:0:2 .*16\.00 MiB`},
	{name: "a volume is as big as its disk", args: "vol-dumpxml unit:0:0:1 p", want: `(?s)<volume type='network'>.*<capacity unit='bytes'>16777216</capacity>.*<format type='raw'/>`},
	{name: "a volume is found by its key", args: "vol-pool ip-127.0.0.1:PORT-iscsi-" + iscsiTarget + "-lun-2", want: `^p`},
	{name: "none can be made", args: "vol-create-as p unit:0:0:3 1M", want: `storage pool does not support volume creation`, fails: true},
	{name: "nor deleted", args: "vol-delete unit:0:0:1 p", want: `storage pool does not support vol deletion`, fails: true},
	{name: "one is wiped", args: "vol-wipe unit:0:0:1 p --algorithm bsi", want: `Vol unit:0:0:1 wiped`},
	{name: "a pool at another port is another one", args: "pool-define-as q iscsi-direct --source-host 127.0.0.1 --source-dev " + iscsiTarget + " --source-initiator " + iscsiSelf, want: `Pool q defined`},
	{name: "and does not start, as nobody is there", args: "pool-start q", want: `connection to the target failed`, fails: true},
	{name: "it ends", args: "pool-destroy p", want: `destroyed`},
	{name: "and is forgotten", args: "pool-undefine p", want: `undefined`},
}

func TestVirshISCSI(t *testing.T) {
	s := startTarget(t)
	h := iscsiHost(t)
	commands := make([]command, len(iscsiCommands))
	for n, c := range iscsiCommands {
		c.args, c.want = strings.ReplaceAll(c.args, "PORT", s.port), strings.ReplaceAll(c.want, "PORT", s.port)
		commands[n] = c
	}
	run(t, commands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, write(t, "pool.xml", s.pool("")))
	wiped, err := os.ReadFile(s.disks[0])
	if err != nil || !bytes.Equal(wiped, bytes.Repeat([]byte{0x7f}, 16<<20)) {
		t.Errorf("the wiped disk has something else, error %v", err)
	}
}

// TestISCSIVolumesGoUpAndDown holds that what is written to a volume is on the target's disk and comes back, by a target that asks for a
// password.
func TestISCSIVolumesGoUpAndDown(t *testing.T) {
	s := startTarget(t)
	s.admin("--op", "new", "--mode", "account", "--user", "me", "--password", "right-password")
	s.admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", "me")
	h := iscsiHost(t)
	secret := write(t, "secret.xml", "<secret><uuid>"+chapSecret+"</uuid><usage type='iscsi'><target>disks</target></usage></secret>")
	virsh(t, h, qemuURI, "secret-define", secret)
	virsh(t, h, qemuURI, "pool-define", write(t, "pool.xml", s.pool("<auth type='chap' username='me'><secret usage='disks'/></auth>")))
	setValue := func(text string) {
		virsh(t, h, qemuURI, "secret-set-value", chapSecret, "--file", write(t, "value", text), "--plain")
	}
	setValue("wrong-password")
	_, err := h.Virsh(t.Context(), qemuURI, "pool-start", "p")
	if said := fmt.Sprint(err); err == nil || !strings.Contains(said, "login is denied") || strings.Contains(said, "-password") {
		t.Errorf("with a wrong password: %v", err)
	}
	setValue("right-password")
	virsh(t, h, qemuURI, "pool-start", "p")
	want := make([]byte, 16<<20)
	_, _ = rand.Read(want)
	sent, got := filepath.Join(t.TempDir(), "sent"), filepath.Join(t.TempDir(), "got")
	if err := os.WriteFile(sent, want, 0o600); err != nil {
		t.Fatal(err)
	}
	virsh(t, h, qemuURI, "vol-upload", "unit:0:0:2", sent, "--pool", "p")
	virsh(t, h, qemuURI, "vol-download", "unit:0:0:2", got, "--pool", "p")
	for where, name := range map[string]string{"the target's disk": s.disks[1], "what came back": got} {
		if data, err := os.ReadFile(name); err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s is something else, error %v", where, err)
		}
	}
}

// TestATargetThatStopsHoldsNobodyUp stops a target in its tracks.
func TestATargetThatStopsHoldsNobodyUp(t *testing.T) {
	s := startTarget(t)
	h := iscsiHost(t)
	virsh(t, h, qemuURI, "pool-define", write(t, "pool.xml", s.pool("")))
	virsh(t, h, qemuURI, "pool-start", "p")
	virsh(t, h, qemuURI, "pool-create-as", "other", "dir", "--target", t.TempDir())
	_ = s.process.Signal(syscall.SIGSTOP)
	refreshed := make(chan error, 1)
	begun := time.Now()
	go func() {
		_, err := h.Virsh(t.Context(), qemuURI, "pool-refresh", "p")
		refreshed <- err
	}()
	time.Sleep(200 * time.Millisecond)
	for _, c := range []struct{ args, want string }{
		{"pool-list --all", "p"}, {"vol-list p", "unit:0:0:1"}, {"pool-dumpxml p", iscsiTarget}, {"pool-refresh other", ""}, {"vol-create-as other v 1M", ""},
	} {
		if out := virsh(t, h, qemuURI, strings.Fields(c.args)...); !strings.Contains(out, c.want) {
			t.Errorf("%s answers %s", c.args, out)
		}
	}
	select {
	case err := <-refreshed:
		t.Errorf("the refresh did not wait for the target: %v", err)
	default:
		t.Logf("all was answered within %v while the target was stopped", time.Since(begun)-200*time.Millisecond)
	}
	if err := <-refreshed; err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("the refresh ends with %v", err)
	}
	_ = s.process.Signal(syscall.SIGCONT)
	virsh(t, h, qemuURI, "pool-refresh", "p")
}

// TestISCSIDriverIsKilled kills the real driver at random moments of all that it does. Afterwards each byte is as before or as asked.
func TestISCSIDriverIsKilled(t *testing.T) {
	s := startTarget(t)
	h := iscsiHost(t)
	virsh(t, h, qemuURI, "pool-define", write(t, "pool.xml", s.pool("")))
	virsh(t, h, qemuURI, "pool-start", "p")
	seed := mathrand.Uint64()
	t.Logf("the seed is %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	for n := range 50 {
		letter := 'A' + byte(n%26)
		work := []struct {
			args    []string
			changes bool
			fill    byte
		}{
			{args: []string{"pool-refresh", "p"}},
			{[]string{"vol-wipe", "unit:0:0:1", "p"}, true, 0},
			{[]string{"vol-upload", "unit:0:0:1", write(t, "sent", strings.Repeat(string(rune(letter)), 16<<20)), "--pool", "p"}, true, letter},
		}[n%3]
		before, err := os.ReadFile(s.disks[0])
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := h.Virsh(t.Context(), qemuURI, work.args...)
			done <- err
		}()
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		killPlugin(t, h, "lodge-plugin-iscsi")
		for waiting := true; waiting; { // as soon as it is seen to be gone, it is wanted back without a pause
			select {
			case err = <-done:
				waiting = false
			case <-time.After(50 * time.Millisecond):
			}
			if err := h.ResetPlugin(t.Context(), "iscsi"); err != nil {
				t.Fatal(err)
			}
		}
		after, readErr := os.ReadFile(s.disks[0])
		if readErr != nil {
			t.Fatal(readErr)
		}
		for i := range after {
			asked := work.changes && after[i] == work.fill
			if !asked && (after[i] != before[i] || work.changes && err == nil) {
				t.Fatalf("%v: byte %d was %d, is %d; error %v", work.args, i, before[i], after[i], err)
			}
		}
		virsh(t, h, qemuURI, "pool-refresh", "p")
		if out := virsh(t, h, qemuURI, "vol-list", "p"); !strings.Contains(out, "unit:0:0:1") || !strings.Contains(out, "unit:0:0:2") {
			t.Fatalf("%v: volumes are %s", work.args, out)
		}
	}
}
