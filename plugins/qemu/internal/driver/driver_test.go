package driver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/capabilities"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.StageCommand {
		os.Exit(process.Stage(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// rig is a driver and one guest for it.
type rig struct {
	t      testing.TB
	core   *faketest.Core
	driver *Driver
	guest  *pb.Guest
	xml    string
	// disks are what the core has found out for devices that are attached.
	disks []*pb.Disk
}

func newRig(t testing.TB, devices string) *rig {
	t.Helper()
	return newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type></os><devices>`+devices+`</devices>`)
}

func newRigWith(t testing.TB, body string) *rig {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	id := uuid.NewString()
	r := &rig{
		t: t, core: faketest.NewCore(t),
		guest: &pb.Guest{Connection: "system", Uuid: id, Name: "guest", Generation: 3},
		xml:   fmt.Sprintf("<domain type='qemu'><name>guest</name><uuid>%s</uuid>%s</domain>", id, body),
	}
	r.restart()
	t.Cleanup(func() {
		r.driver.Close(context.Background())
		if err := process.Sweep(context.Background(), process.Marker{Driver: driverName, UUID: id, Generation: 3}); err != nil {
			t.Error(err)
		}
	})
	checked, err := r.driver.Validate(t.Context(), &pb.ValidateRequest{Connection: "system", Xml: r.xml})
	if err != nil {
		t.Fatal(err)
	}
	r.xml = checked.GetXml()
	return r
}

// restart drops all that the driver knows, as a crash of the plugin does.
func (r *rig) restart() {
	r.t.Helper()
	if r.driver != nil {
		r.driver.Close(r.t.Context())
	}
	d, err := newDriver(r.core)
	if err != nil {
		r.t.Fatal(err)
	}
	r.driver = d
}

// newDriver is New with the prober of all tests.
func newDriver(core plugin.Core) (*Driver, error) {
	d, err := New(core)
	if err != nil {
		return nil, err
	}
	d.prober = sharedProber()
	d.reporter = capabilities.NewReporter(d.prober, d.log)
	return d, nil
}

// sharedProber saves each test from asking QEMU again what it can do.
var sharedProber = sync.OnceValue(func() *probe.Prober { return probe.New(probe.Options{}) })

func (r *rig) start(paused bool) *pb.StartResponse {
	r.t.Helper()
	resp, err := r.driver.Start(r.t.Context(), r.startRequest(paused))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

func (r *rig) startRequest(paused bool) *pb.StartRequest {
	return &pb.StartRequest{
		Guest: r.guest, Xml: r.xml, Id: 7, Paused: paused, Resolved: &pb.Resolved{Cgroup: "lodge-test/" + cgroupName(r.guest)},
	}
}

func (r *rig) recover(handle *pb.Handle) *pb.RecoverResponse {
	r.t.Helper()
	resp, err := r.driver.Recover(r.t.Context(), &pb.RecoverRequest{Guest: r.guest, Handle: handle, Xml: r.xml, Id: 7})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

func (r *rig) stop() *pb.Change {
	r.t.Helper()
	resp, err := r.driver.Stop(r.t.Context(), &pb.StopRequest{Guest: r.guest})
	if err != nil {
		r.t.Fatal(err)
	}
	r.nothingLeft()
	return resp.GetChange()
}

func (r *rig) nothingLeft() {
	r.t.Helper()
	if found, err := process.Find(r.t.Context(), driverName, r.guest.GetUuid()); err != nil || len(found) != 0 {
		r.t.Errorf("processes left: %v, %v", found, err)
	}
	if left, err := os.ReadDir(r.core.Settings().RuntimeDir); err != nil || len(left) != 0 {
		r.t.Errorf("folders left: %v, %v", left, err)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/lodge-test/" + cgroupName(r.guest))
	if err != nil || len(groups) != 0 {
		r.t.Errorf("control groups left: %v, %v", groups, err)
	}
}

func TestGuestIsStartedAndStopped(t *testing.T) {
	r := newRig(t, "")
	resp := r.start(true)
	if c := resp.GetChange(); c.GetState() != pb.State_STATE_PAUSED || len(c.GetEvents()) != 2 {
		t.Errorf("change of the start is %v", c)
	}
	if !strings.Contains(resp.GetLiveXml(), " id='7'") {
		t.Errorf("live xml has no id: %s", resp.GetLiveXml())
	}
	if c := r.stop(); c.GetState() != pb.State_STATE_SHUTOFF || c.GetReason() != 2 {
		t.Errorf("change of the stop is %v", c)
	}
	if c := r.stop(); c.GetState() != pb.State_STATE_SHUTOFF || len(c.GetEvents()) != 0 {
		t.Errorf("change of a second stop is %v", c)
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	r := newRig(t, "")
	r.start(true)
	if _, err := r.driver.Start(t.Context(), r.startRequest(true)); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("error is %v", err)
	}
	r.stop()
}

func TestRecoverAfterTheDriverWasLost(t *testing.T) {
	for name, handle := range map[string]bool{"with its handle": true, "by name alone": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			started := r.start(false)
			r.restart()
			var h *pb.Handle
			if handle {
				h = started.GetHandle()
			}
			resp := r.recover(h)
			if resp.GetVerdict() != pb.Verdict_VERDICT_RUNNING || resp.GetHandle().GetPid() != started.GetHandle().GetPid() {
				t.Errorf("verdict is %v of process %d", resp.GetVerdict(), resp.GetHandle().GetPid())
			}
			if resp.GetChange().GetState() != pb.State_STATE_RUNNING || len(resp.GetChange().GetEvents()) != 0 {
				t.Errorf("change is %v", resp.GetChange())
			}
			if resp.GetLiveXml() != started.GetLiveXml() {
				t.Error("live xml has changed")
			}
			if again := r.recover(h); again.GetVerdict() != pb.Verdict_VERDICT_RUNNING {
				t.Errorf("verdict is %v the second time", again.GetVerdict())
			}
			r.stop()
		})
	}
}

func TestRecoverOfAGuestThatNeverWas(t *testing.T) {
	r := newRig(t, "")
	if v := r.recover(nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED {
		t.Errorf("verdict is %v", v)
	}
	r.nothingLeft()
}

func TestRecoverOfAGuestThatDiedMeanwhile(t *testing.T) {
	r := newRig(t, "")
	handle := r.start(false).GetHandle()
	r.restart()
	p, err := process.Open(process.ID{PID: int(handle.GetPid()), StartTime: handle.GetStartTime()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp := r.recover(nil)
	if resp.GetVerdict() != pb.Verdict_VERDICT_GONE || resp.GetChange().GetReason() != 3 {
		t.Errorf("verdict is %v", resp)
	}
	r.nothingLeft()
}

func TestRecoverOfAnotherGeneration(t *testing.T) {
	r := newRig(t, "")
	r.start(true)
	r.restart()
	r.guest.Generation++
	if v := r.recover(nil).GetVerdict(); v != pb.Verdict_VERDICT_FOREIGN {
		t.Errorf("verdict is %v", v)
	}
	r.guest.Generation--
	r.stop()
}

func TestWordsOfAQEMUThatEndsAtOnceReachTheClient(t *testing.T) {
	r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type><kernel>/nonexistent</kernel></os>`)
	_, err := r.driver.Start(t.Context(), r.startRequest(true))
	if !verr.Is(err, verr.Internal) || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("error is %v", err)
	}
	r.nothingLeft()
}

func TestLinuxGuestFromStartToItsOwnEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	t.Parallel()
	vmlinuz, initrd := kernel(t)
	r := newRigWith(t, `<memory unit='MiB'>128</memory><os><type>hvm</type><kernel>`+vmlinuz+`</kernel><initrd>`+initrd+
		`</initrd><cmdline>console=ttyS0 quiet</cmdline></os><features><acpi/></features><devices><serial type='pty'/><console type='pty'/></devices>`)
	r.start(true)
	console := r.open(false)
	if _, err := r.driver.OpenConsole(t.Context(), &pb.ConsoleTarget{Guest: r.guest}); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("second console: %v", err)
	}
	if _, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest}); err != nil {
		t.Fatal(err)
	}
	expect(t, console, "the guest is up")
	console.Close()
	r.restart()
	if v := r.recover(nil).GetVerdict(); v != pb.Verdict_VERDICT_RUNNING {
		t.Fatalf("verdict is %v", v)
	}
	console = r.open(true)
	defer console.Close()
	fmt.Fprintln(console, "hello")
	expect(t, console, "it said hello")
	fmt.Fprintln(console, "poweroff -f")
	events := r.core.WaitEvents(t, 2)
	if c := events[0].GetChange(); c.GetState() != pb.State_STATE_SHUTDOWN || c.GetEvents()[0].GetLifecycle().GetDetail() != 1 {
		t.Errorf("first event is %v", c)
	}
	if c := events[1].GetChange(); c.GetState() != pb.State_STATE_SHUTOFF || c.GetReason() != 1 {
		t.Errorf("last event is %v", c)
	}
	if _, err := io.Copy(io.Discard, console); err != nil {
		t.Errorf("console ended with %v", err)
	}
	r.nothingLeft()
}

func (r *rig) open(force bool) io.ReadWriteCloser {
	r.t.Helper()
	c, err := r.driver.OpenConsole(r.t.Context(), &pb.ConsoleTarget{Guest: r.guest, Force: force})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, from io.Reader, words string) {
	t.Helper()
	var all []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(all, []byte(words)) {
		n, err := from.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		all = append(all, buf[:n]...)
	}
}
