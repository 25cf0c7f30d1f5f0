package driver

import (
	"bytes"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/iscsiadmtest"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/kernel"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const portal = "127.0.0.1:3260"

func newKernelBench(t *testing.T, h *iscsiadmtest.Host) *bench {
	t.Helper()
	return &bench{t, faketest.StartWith(t, pluginOn("1.0.0", kernel.Roots{Sys: h.Sys, Dev: h.Dev}), h.Config()).Conn}
}

func kernelXML(h *iscsiadmtest.Host, more string) string {
	return fmt.Sprintf(`<pool type='iscsi'><name>p</name><source><host name='127.0.0.1'/><device path='%s'/>%s</source>
		<target><path>%s</path></target></pool>`, targetName, more, h.ByPath)
}

// kernelPool has the driver complete a definition of a kernel's pool.
func (b *bench) kernelPool(h *iscsiadmtest.Host, more string, secrets ...*pb.Secret) *pb.Pool {
	b.Helper()
	return b.define(kernelXML(h, more), secrets...)
}

func (b *bench) check(p *pb.Pool) (bool, error) {
	rsp, err := pb.NewPoolServiceClient(b.conn).Check(b.Context(), &pb.CheckRequest{Pool: p})
	return rsp.GetActive(), err
}

func (b *bench) stop(p *pb.Pool) {
	b.Helper()
	if _, err := pb.NewPoolServiceClient(b.conn).Stop(b.Context(), &pb.StopRequest{Pool: p}); err != nil {
		b.Fatal(err)
	}
}

func TestTheKernelLogsInAndOut(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{8 << 20, 1 << 20}})
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "<initiator><iqn name='"+selfName+"'/></initiator>")
	for range 2 {
		if active, err := b.check(p); err != nil || active {
			t.Errorf("usable before its start: %v, error %v", active, err)
		}
		for range 2 {
			if err := b.start(p); err != nil {
				t.Fatal(err)
			}
		}
		if active, err := b.check(p); err != nil || !active || len(h.Sessions()) != 1 {
			t.Errorf("usable %v, error %v, sessions %q", active, err, h.Sessions())
		}
		all, size := b.mustRefresh(p)
		v := all["unit:0:0:1"]
		if len(all) != 2 || size.Capacity != 9<<20 || v.GetCapacity() != 8<<20 || v.GetType() != pb.VolumeType_VOLUME_TYPE_BLOCK {
			t.Errorf("volumes %v, size %v", all, size)
		}
		if want := filepath.Join(h.ByPath, "ip-"+portal+"-iscsi-"+targetName+"-lun-1"); v.GetPath() != want || v.GetKey() != "1IET_00010001" {
			t.Errorf("path %q, want %q, key %q", v.GetPath(), want, v.GetKey())
		}
		b.stop(p)
		b.stop(p)
		if len(h.Sessions()) != 0 || len(h.Records()) != 0 {
			t.Errorf("left are %q and %q", h.Sessions(), h.Records())
		}
	}
	if _, _, err := b.refresh(p); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "no session") {
		t.Errorf("refreshed without a session: %v", err)
	}
}

func TestAPasswordIsNoArgumentAndStaysInNoFile(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, User: "me", Password: "right-password", Disks: []int64{1 << 20}})
	b := newKernelBench(t, h)
	for password, want := range map[string]verr.Code{"wrong-password": verr.AuthFailed, "with\nnode.startup = automatic": verr.InvalidArg, "right-password": verr.OK} {
		p := b.kernelPool(h, auth, &pb.Secret{Usage: "u", Value: []byte(password)})
		if err := b.start(p); code(err) != want || strings.Contains(fmt.Sprint(err), password) {
			t.Errorf("%q: %v, want code %d", password, err, want)
		}
		if len(h.Sessions()) > 0 != (want == verr.OK) {
			t.Errorf("%q: sessions %q", password, h.Sessions())
		}
		b.stop(p)
	}
	if err := b.start(b.kernelPool(h, auth)); code(err) != verr.NoSecret {
		t.Errorf("without a password: %v", err)
	}
	if runs := h.Runs(); strings.Contains(runs, "password") {
		t.Errorf("it is an argument: %s", runs)
	}
	if left := h.Records(); len(left) > 0 {
		t.Errorf("records are left: %q", left)
	}
}

func TestRecordsOfOthersStay(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{1 << 20}})
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "")
	dir := filepath.Join(h.Database, targetName)
	write := func(name, iface string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("iface.iscsi_ifacename = "+iface+"\nnode.session.auth.password = old\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("127.0.0.1,3260,1/default", "default")
	write("127.0.0.1,3260,1/lodge", "lodge") // left by a crash
	if err := b.start(p); err != nil {
		t.Fatal(err)
	}
	b.mustRefresh(p)
	if left := h.Records(); len(left) != 1 || left[targetName+"/127.0.0.1,3260,1/default"] == "" {
		t.Errorf("records are %q", left)
	}
	b.stop(p)
	write("127.0.0.1,3260", "default")
	if err := b.start(p); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "not this driver's") {
		t.Errorf("over another's record: %v", err)
	}
}

func TestSessionsOfOthersStay(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{1 << 20}})
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "")
	if err := b.start(p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Sessions()[0], "ifacename"), []byte("default\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.mustRefresh(p)
	b.stop(p)
	if len(h.Sessions()) != 1 {
		t.Error("it is gone")
	}
	if err := os.WriteFile(filepath.Join(h.Sessions()[0], "state"), []byte("FAILED\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.check(p); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "FAILED") {
		t.Errorf("a session that has failed: %v", err)
	}
}

func TestWhatAKernelWithoutISCSISays(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{1 << 20}})
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "")
	for state, want := range map[string]string{"nokernel": "iscsid does not run", "nodaemon": "iscsid does not run", "hang": "deadline exceeded"} {
		h.Set(state, true)
		begun := time.Now()
		if err := b.start(p); err == nil || !strings.Contains(err.Error(), want) || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: %v after %v", state, err, time.Since(begun))
		}
		h.Set(state, false)
	}
	find := func() (string, error) {
		rsp, err := pb.NewSourceServiceClient(b.conn).FindSources(t.Context(), &pb.FindSourcesRequest{Type: "iscsi", SourceXml: "<source><host name='127.0.0.1'/></source>"})
		return rsp.GetSourcesXml(), err
	}
	if got, err := find(); err != nil || !strings.Contains(got, "<device path='"+targetName+"'/>") {
		t.Errorf("found %s, error %v", got, err)
	}
	h.Set("nokernel", true)
	if _, err := find(); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "not loaded") {
		t.Errorf("without a kernel: %v", err)
	}
	if len(h.Sessions())+len(h.Records()) > 0 {
		t.Errorf("left are %q and %q", h.Sessions(), h.Records())
	}
	p.Xml = strings.Replace(p.Xml, targetName, targetName+"x", 1)
	h.Set("nokernel", false)
	if err := b.start(p); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "19") {
		t.Errorf("no such target: %v", err)
	}
}

func TestNewUnitsAreSeenAndLinksWaitedFor(t *testing.T) {
	target := iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{1 << 20}}
	h := iscsiadmtest.Start(t, target)
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "")
	if err := b.start(p); err != nil {
		t.Fatal(err)
	}
	target.Disks = append(target.Disks, 2<<20)
	h.Targets(target)
	h.Set("nolinks", true)
	link := filepath.Join(h.ByPath, "ip-"+portal+"-iscsi-"+targetName+"-lun-2")
	time.AfterFunc(300*time.Millisecond, func() { _ = os.Symlink("../../sdbc", link) })
	all, _ := b.mustRefresh(p)
	if v := all["unit:0:0:2"]; v.GetPath() != link || v.GetTrouble() != "" || v.GetCapacity() != 2<<20 {
		t.Errorf("the new volume is %v", v)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	all, _ = b.mustRefresh(p)
	if v := all["unit:0:0:2"]; v.GetPath() != filepath.Join(h.Dev, "sdbc") || v.GetTrouble() == "" {
		t.Errorf("the volume without a link is %v", v)
	}
}

func TestContentOfDevices(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{1 << 20}})
	b := newKernelBench(t, h)
	p := b.kernelPool(h, "")
	if err := b.start(p); err != nil {
		t.Fatal(err)
	}
	v := &pb.Volume{Name: "unit:0:0:1"}
	data := make([]byte, 200_000)
	_, _ = rand.Read(data)
	if n, err := b.upload(p, v, 100, 0, data); err != nil || n != uint64(len(data)) {
		t.Errorf("%d bytes written, error %v", n, err)
	}
	if got, _, err := b.download(&pb.DownloadRequest{Pool: p, Volume: v, Offset: 100, Length: uint64(len(data))}); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back changed, error %v", len(got), err)
	}
	if err := b.wipe(p, v, 0); err != nil {
		t.Error(err)
	}
	if got, _, err := b.download(&pb.DownloadRequest{Pool: p, Volume: v}); err != nil || !bytes.Equal(got, make([]byte, 1<<20)) {
		t.Errorf("%d bytes came back after it was wiped, error %v", len(got), err)
	}
	if err := b.wipe(p, &pb.Volume{Name: "unit:0:0:0"}, 0); code(err) != verr.NoStorageVol {
		t.Errorf("the controller is wiped: %v", err)
	}
}

func (b *bench) startAndRefresh(p *pb.Pool) (map[string]*pb.Volume, *pb.PoolSize, error) {
	if err := b.start(p); err != nil {
		return nil, nil, err
	}
	return b.refresh(p)
}

// TestKilledWhileItLogsInAndOut kills the driver over the one thing that has a password in a file for a moment.
func TestKilledWhileItLogsInAndOut(t *testing.T) {
	h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, User: "me", Password: "right-password", Disks: []int64{1 << 20}})
	t.Setenv(hostKey, h.Dir)
	core := faketest.Launch(t, h.Config(), process)
	b := &bench{t, core.Conn}
	p := b.kernelPool(h, auth, &pb.Secret{Usage: "u", Value: []byte("right-password")})
	seed := mathrand.Uint64()
	t.Logf("the seed is %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	for round := range 50 {
		done := make(chan struct{})
		client := pb.NewPoolServiceClient(b.conn)
		go func() {
			defer close(done)
			if round%2 == 0 {
				_, _ = client.Start(t.Context(), &pb.StartRequest{Pool: p})
			} else {
				_, _ = client.Stop(t.Context(), &pb.StopRequest{Pool: p})
			}
		}()
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		core.Kill()
		<-done
		core.Relaunch(t, h.Config(), process)
		b.conn = core.Conn
		// What the killed driver had run may end meanwhile, as a logout; the core tries again then.
		all, _, err := b.startAndRefresh(p)
		for try := 0; err != nil && try < 3; try++ {
			all, _, err = b.startAndRefresh(p)
		}
		if err != nil || len(all) != 1 || len(h.Sessions()) != 1 || len(h.Records()) != 0 {
			t.Fatalf("round %d: volumes %v, sessions %q, records %q, error %v", round, all, h.Sessions(), h.Records(), err)
		}
		if round%2 != 0 {
			b.stop(p)
		}
	}
	if strings.Contains(h.Runs(), "password") {
		t.Error("the password is an argument")
	}
}
