//go:build libiscsi && cgo

package driver

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/tgttest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// quick is a configuration with the shortest time-out.
var quick = []byte(`{"timeout_seconds": 1}`)

func newBench(t *testing.T) *bench {
	t.Helper()
	return &bench{t, faketest.StartWith(t, Plugin("1.0.0"), quick).Conn}
}

func directXML(host string, port int, target, more string) string {
	return fmt.Sprintf(`<pool type='iscsi-direct'><name>p</name><source><host name='%s' port='%d'/><device path='%s'/>
		<initiator><iqn name='%s'/></initiator>%s</source></pool>`, host, port, target, selfName, more)
}

// direct has the driver complete a definition of a direct pool.
func (b *bench) direct(host string, port int, target, more string, secrets ...*pb.Secret) *pb.Pool {
	b.Helper()
	return b.define(directXML(host, port, target, more), secrets...)
}

// pool starts a target with a disk for each size, and a pool on it.
func (b *bench) pool(server *tgttest.Server, name string, sizes ...int64) (*pb.Pool, []string) {
	b.Helper()
	var files []string
	for _, size := range sizes {
		files = append(files, tgttest.File(b, size))
	}
	server.Target(name, files...)
	return b.direct(server.Host, server.Port, name, ""), files
}

func TestUnitsAreVolumes(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	p, _ := b.pool(server, targetName, 8<<20, 3<<20+512)
	if err := b.start(p); err != nil {
		t.Fatal(err)
	}
	all, size := b.mustRefresh(p)
	if len(all) != 2 || size.Capacity != 11<<20+512 || size.Allocation != size.Capacity || size.Available != 0 {
		t.Errorf("volumes %v, size %v", all, size)
	}
	v := all["unit:0:0:2"]
	link := fmt.Sprintf("ip-127.0.0.1:%d-iscsi-%s-lun-2", server.Port, targetName)
	if v.GetCapacity() != 3<<20+512 || v.GetKey() != link || v.GetPath() != link || v.GetType() != pb.VolumeType_VOLUME_TYPE_NETWORK || v.GetFormat() != "raw" {
		t.Errorf("volume %v", v)
	}
	if n := v.GetNetwork(); n.GetProtocol() != "iscsi" || n.GetName() != targetName+"/2" || n.GetHosts()[0].GetPort() != uint32(server.Port) {
		t.Errorf("network source %v", n)
	}
	for _, name := range []string{"unit:0:0:0", "unit:0:0:3", "other"} {
		if _, _, err := b.download(&pb.DownloadRequest{Pool: p, Volume: &pb.Volume{Name: name}}); code(err) != verr.NoStorageVol {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOthersSeeTheSame compares with the tools of libiscsi and QEMU.
func TestOthersSeeTheSame(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	p, _ := b.pool(server, targetName, 8<<20)
	all, _ := b.mustRefresh(p)
	url := fmt.Sprintf("iscsi://%s/%s/1", server.Portal, targetName)
	if _, err := exec.LookPath("iscsi-ls"); err == nil {
		out, err := exec.Command("iscsi-ls", "-s", "iscsi://"+server.Portal).CombinedOutput()
		if err != nil || !strings.Contains(string(out), targetName) || strings.Count(string(out), "DIRECT_ACCESS") != len(all) {
			t.Errorf("iscsi-ls says %s, error %v", out, err)
		}
	}
	if out, err := exec.Command("qemu-img", "info", url).CombinedOutput(); err == nil {
		if !strings.Contains(string(out), fmt.Sprintf("(%d bytes)", all["unit:0:0:1"].Capacity)) {
			t.Errorf("qemu-img says %s", out)
		}
	} else {
		t.Logf("qemu-img cannot tell: %s", out)
	}
}

func TestContentGoesUpAndDown(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	const size = 6 << 20
	p, files := b.pool(server, targetName, size)
	v := &pb.Volume{Name: "unit:0:0:1"}
	want := make([]byte, size)
	put := func(at, n uint64, pieces ...[]byte) {
		t.Helper()
		if written, err := b.upload(p, v, at, n, pieces...); err != nil || written == 0 {
			t.Errorf("%d bytes written, error %v", written, err)
		}
		for _, data := range pieces {
			if data == nil {
				data = make([]byte, 1<<20)
			}
			at += uint64(copy(want[at:], data))
		}
	}
	random := func(n int) []byte {
		data := make([]byte, n)
		_, _ = rand.Read(data)
		return data
	}
	put(0, 0, random(256<<10), random(262_120), random(262_120), random(77))
	put(1000, 3, random(3))
	put(4<<20-1, 0, random(100_000), nil, random(1))
	put(size-5, 5, random(5))
	onDisk, err := os.ReadFile(files[0])
	if err != nil || !bytes.Equal(onDisk, want) {
		t.Errorf("the disk has something else, error %v", err)
	}
	for _, c := range []struct{ at, n uint64 }{{0, 0}, {1, 511}, {511, 2}, {262_143, 262_145}, {size - 1, 1}, {size - 1, 100}, {size, 0}} {
		end := uint64(size)
		if c.n > 0 {
			end = min(end, c.at+c.n)
		}
		for _, sparse := range []bool{false, true} {
			got, holes, err := b.download(&pb.DownloadRequest{Pool: p, Volume: v, Offset: c.at, Length: c.n, Sparse: sparse})
			if err != nil || !bytes.Equal(got, want[c.at:end]) || holes > 0 && !sparse {
				t.Errorf("from %d, %d bytes, sparse %v: %d bytes, %d of holes, error %v", c.at, c.n, sparse, len(got), holes, err)
			}
		}
	}
	for name, c := range map[string]struct{ at, n uint64 }{"beyond the end": {size + 1, 0}, "too long": {size - 1, 2}} {
		if _, err := b.upload(p, v, c.at, c.n); code(err) != verr.InvalidArg {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.upload(p, v, size-1, 0, random(2)); code(err) != verr.OperationFailed {
		t.Errorf("more than there is room for: %v", err)
	}
	if err := b.wipe(p, v, 3); err != nil {
		t.Fatal(err)
	}
	if onDisk, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(onDisk, bytes.Repeat([]byte{0x7f}, size)) {
		t.Errorf("a wiped disk has something else, error %v", err)
	}
	if err := b.wipe(p, v, 9); code(err) != verr.ArgumentUnsupported {
		t.Errorf("trimmed: %v", err)
	}
}

func TestWhoKnowsThePasswordIsLetIn(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	server.CHAP(server.Target(targetName, tgttest.File(t, 1<<20)), "me", "right-password")
	for password, want := range map[string]verr.Code{"right-password": verr.OK, "wrong-password": verr.AuthFailed, "": verr.NoSecret} {
		var secrets []*pb.Secret
		if password != "" {
			secrets = []*pb.Secret{{Usage: "u", Value: []byte(password)}}
		}
		err := b.start(b.direct(server.Host, server.Port, targetName, auth, secrets...))
		if code(err) != want || strings.Contains(fmt.Sprint(err), "-password") {
			t.Errorf("%q: %v, want code %d", password, err, want)
		}
	}
	all, _ := b.mustRefresh(b.direct(server.Host, server.Port, targetName, auth, &pb.Secret{Value: []byte("right-password")}))
	if n := all["unit:0:0:1"].GetNetwork(); n.GetUser() != "me" || n.GetSecret().GetUsage() != "u" || n.GetSecret().GetUsageType() != "iscsi" {
		t.Errorf("network source %v", n)
	}
}

func TestSourcesAreFound(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	server.Target(targetName + "1")
	server.Target(targetName + "2")
	find := func(source string) (string, error) {
		rsp, err := pb.NewSourceServiceClient(b.conn).FindSources(t.Context(), &pb.FindSourcesRequest{Type: "iscsi-direct", SourceXml: source})
		return rsp.GetSourcesXml(), err
	}
	got, err := find(fmt.Sprintf("<source><host name='127.0.0.1' port='%d'/><initiator><iqn name='%s'/></initiator></source>", server.Port, selfName))
	if err != nil || !strings.Contains(got, "<device path='"+targetName+"1'/>") || strings.Count(got, "<source>") != 2 {
		t.Errorf("found %s, error %v", got, err)
	}
	for _, source := range []string{"", "<source><host name='127.0.0.1'/></source>", "<source><host name='-x'/></source>"} {
		if got, err := find(source); err == nil {
			t.Errorf("%q: %s", source, got)
		}
	}
}

func TestTargetsThatAreAway(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	p, _ := b.pool(server, targetName, 8<<20)
	other, _ := b.pool(tgttest.Start(t), targetName, 8<<20)
	server.Pause()
	var hanging []chan error
	begun := time.Now()
	for range 20 {
		done := make(chan error, 1)
		go func() { _, _, err := b.refresh(p); done <- err }()
		hanging = append(hanging, done)
	}
	time.Sleep(100 * time.Millisecond)
	for range 5 {
		if _, _, err := b.refresh(other); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(begun); took > 900*time.Millisecond {
		t.Errorf("another target took %v", took)
	}
	for _, done := range hanging {
		if err := <-done; code(err) != verr.OperationTimeout {
			t.Errorf("a target that does not answer: %v", err)
		}
	}
	server.Resume()
	b.mustRefresh(p)
	server.Kill()
	if err := b.start(p); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), server.Portal) {
		t.Errorf("a target that is dead: %v", err)
	}
	tgttest.StartAt(t, server.Port).Target(targetName, tgttest.File(t, 1<<20))
	b.mustRefresh(p)
}

func TestTheTargetDiesInATransfer(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	p, _ := b.pool(server, targetName, 256<<20)
	v := &pb.Volume{Name: "unit:0:0:1"}
	up, err := pb.NewTransferServiceClient(b.conn).Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Send(&pb.UploadRequest{Begin: &pb.UploadBegin{Pool: p, Volume: v}}); err != nil {
		t.Fatal(err)
	}
	for n := 0; err == nil; n++ {
		if n == 20 {
			server.Kill()
		}
		err = up.Send(&pb.UploadRequest{Data: make([]byte, 256<<10)})
	}
	for err = nil; err == nil; {
		_, err = up.Recv()
	}
	if code(err) != verr.OperationFailed {
		t.Errorf("the upload ends with %v", err)
	}
	server = tgttest.StartAt(t, server.Port)
	server.Target(targetName, tgttest.File(t, 64<<20))
	down, err := pb.NewTransferServiceClient(b.conn).Download(t.Context(), &pb.DownloadRequest{Pool: p, Volume: v})
	for n := 0; err == nil; n++ {
		if n == 2 {
			server.Pause()
		}
		_, err = down.Recv()
	}
	if code(err) != verr.OperationTimeout {
		t.Errorf("the download ends with %v", err)
	}
}

func TestManyUnits(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	file := tgttest.File(t, 1<<20)
	id := server.Target(targetName)
	for lun := 1; lun <= 255; lun++ {
		server.Disk(id, lun, file)
	}
	begun := time.Now()
	all, size := b.mustRefresh(b.direct(server.Host, server.Port, targetName, ""))
	t.Logf("255 units took %v", time.Since(begun))
	if len(all) != 255 || size.Capacity != 255<<20 {
		t.Errorf("%d volumes, size %v", len(all), size)
	}
}

func TestNothingIsLeft(t *testing.T) {
	server, b := tgttest.Start(t), newBench(t)
	p, _ := b.pool(server, targetName, 8<<20)
	dead := b.direct("127.0.0.1", 1, targetName, "")
	work := func() {
		b.mustRefresh(p)
		_, _, err := b.refresh(dead)
		_, up := b.upload(p, &pb.Volume{Name: "unit:0:0:1"}, 0, 0, []byte("x"))
		_, _, down := b.download(&pb.DownloadRequest{Pool: p, Volume: &pb.Volume{Name: "unit:0:0:1"}, Length: 100})
		if err == nil || errors.Join(up, down) != nil {
			t.Fatal(err, up, down)
		}
	}
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	work()
	files, routines := open(), runtime.NumGoroutine()
	for range 50 {
		work()
	}
	deadline := time.Now().Add(5 * time.Second)
	for open() > files || runtime.NumGoroutine() > routines+2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, before %d; %d goroutines, before %d", open(), files, runtime.NumGoroutine(), routines)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
