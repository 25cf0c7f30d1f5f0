//go:build cgo && pacific

package driver

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/cephtest"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/session"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// ended is a context for what comes after a test.
func (b *bench) ended() context.Context { return context.WithoutCancel(b.Context()) }

func TestAPoolFromStartToStop(t *testing.T) {
	b := newBench(t)
	pools := pb.NewPoolServiceClient(b.conn)
	if _, err := pools.Start(t.Context(), &pb.StartRequest{Pool: b.pool}); err != nil {
		t.Fatal(err)
	}
	if rsp, err := pools.Check(t.Context(), &pb.CheckRequest{Pool: b.pool}); err != nil || !rsp.Active {
		t.Errorf("check says %v, error %v", rsp, err)
	}
	made := b.must(&pb.CreateRequest{Xml: vol("disk", 9<<20)})
	want := &pb.Volume{Name: "disk", Key: "rbd/disk", Path: "rbd/disk", Type: pb.VolumeType_VOLUME_TYPE_NETWORK, Format: "raw", Capacity: 9 << 20}
	if made.Name != want.Name || made.Key != want.Key || made.Path != want.Path || made.Type != want.Type || made.Format != want.Format ||
		made.Capacity != want.Capacity || made.Allocation != 0 {
		t.Errorf("made %v", made)
	}
	if n := made.Network; n.GetProtocol() != "rbd" || n.Name != "rbd/disk" || n.User != cephtest.User || n.Secret.GetUsage() != "u" || n.Hosts[0].Port != uint32(b.ceph.Port) {
		t.Errorf("network source %v", n)
	}
	if _, err := b.create(&pb.CreateRequest{Xml: vol("disk", 1<<20)}); code(err) != verr.StorageVolExist {
		t.Errorf("made twice: %v", err)
	}
	if err := b.upload(made, 0, bytes.Repeat([]byte("x"), 5<<20)); err != nil {
		t.Fatal(err)
	}
	all, size, err := b.refresh(b.pool)
	for end := time.Now().Add(time.Minute); err == nil && size.GetCapacity() == 0 && time.Now().Before(end); { // Ceph's manager is the last to come
		all, size, err = b.refresh(b.pool)
	}
	if err != nil || len(all) != 1 || all["disk"].GetAllocation() != 8<<20 || size.GetCapacity() == 0 {
		t.Errorf("volumes %v, size %v, error %v", all, size, err)
	}
	grown, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: made, Capacity: 20 << 20})
	if err != nil || grown.GetVolume().GetCapacity() != 20<<20 {
		t.Errorf("grown to %v, error %v", grown, err)
	}
	if _, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: made, Capacity: 4 << 20}); code(err) != verr.InvalidArg {
		t.Errorf("shrunk without being asked: %v", err)
	}
	shrunk, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: made, Capacity: 4 << 20, Flags: resizeShrink})
	if err != nil || shrunk.GetVolume().GetCapacity() != 4<<20 || shrunk.GetVolume().GetAllocation() != 4<<20 {
		t.Errorf("shrunk to %v, error %v", shrunk, err)
	}
	if err := b.remove(made, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewVolumeServiceClient(b.conn).Look(t.Context(), &pb.LookRequest{Pool: b.pool, Name: "disk"}); code(err) != verr.NoStorageVol {
		t.Errorf("looked at after it is gone: %v", err)
	}
	if err := b.remove(made, 0); code(err) != verr.NoStorageVol {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := pools.Stop(t.Context(), &pb.StopRequest{Pool: b.pool}); err != nil {
		t.Fatal(err)
	}
	b.nothingLeft()
}

func TestClonesAndCopies(t *testing.T) {
	b := newBench(t)
	base := b.must(&pb.CreateRequest{Xml: vol("base", 10<<20)})
	data := make([]byte, 10<<20)
	_, _ = rand.Read(data[5<<20 : 6<<20])
	if err := b.upload(base, 0, 5<<20, data[5<<20:6<<20]); err != nil {
		t.Fatal(err)
	}
	clone := b.must(&pb.CreateRequest{Xml: vol("clone", 12<<20), FromPool: b.pool, From: base})
	second := b.must(&pb.CreateRequest{Xml: vol("second", 1), FromPool: b.pool, From: base})
	if clone.Capacity != 12<<20 || clone.Allocation != 0 || second.Capacity != 10<<20 {
		t.Errorf("clones %v, %v", clone, second)
	}
	if got, _, err := b.download(clone, 0, 0, false); err != nil || !bytes.Equal(got, append(slices.Clone(data), make([]byte, 2<<20)...)) {
		t.Errorf("%d bytes of a clone, error %v", len(got), err)
	}
	snapshots, err := b.ceph.Run(t.Context(), "rbd", "snap", "ls", "base", "--format", "json")
	if err != nil || strings.Count(snapshots, `"libvirt-`) != 1 {
		t.Errorf("snapshots %s, error %v", snapshots, err)
	}
	if err := b.remove(base, 0); code(err) != verr.OperationInvalid || !strings.Contains(err.Error(), "rbd/clone") {
		t.Errorf("removed under its clones: %v", err)
	}
	// A change after the snapshot is in the next clone.
	if err := b.upload(base, 0, []byte("changed")); err != nil {
		t.Fatal(err)
	}
	third := b.must(&pb.CreateRequest{Xml: vol("third", 1), FromPool: b.pool, From: base})
	if got, _, err := b.download(third, 0, 7, false); err != nil || string(got) != "changed" {
		t.Errorf("a later clone begins with %q, error %v", got, err)
	}
	other := b.define(b.ceph.Source(cephtest.Other, cephtest.User, "u"), b.key(b.ceph.Key))
	copied := b.must(&pb.CreateRequest{Pool: other, Xml: vol("copy", 1), FromPool: b.pool, From: base})
	if copied.Key != "other/copy" || copied.Capacity != 10<<20 || copied.Allocation != 8<<20 {
		t.Errorf("copy %v", copied)
	}
	if sums, err := b.ceph.Run(t.Context(), "sh", "-c", "rbd export other/copy - | md5sum; rbd export rbd/base - | md5sum"); err != nil || sums[:32] != strings.Fields(sums)[2] {
		t.Errorf("sums %s, error %v", sums, err)
	}
	if _, err := b.create(&pb.CreateRequest{Pool: other, Xml: vol("x", 1), FromPool: b.pool, From: base, Flags: createReflink}); code(err) != verr.OperationUnsupported {
		t.Errorf("copied by reference: %v", err)
	}
	for _, v := range []*pb.Volume{clone, second, third, base} {
		if err := b.remove(v, 0); err != nil {
			t.Error(err)
		}
	}
	if _, err := pb.NewVolumeServiceClient(b.conn).Remove(t.Context(), &pb.RemoveRequest{Pool: other, Volume: copied, Flags: removeZeroed}); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
}

func TestWhoIsUsedIsKept(t *testing.T) {
	b := newBench(t)
	v := b.must(&pb.CreateRequest{Xml: vol("v", 4<<20)})
	if _, err := b.ceph.Run(t.Context(), "rbd", "snap", "create", "v@mine"); err != nil {
		t.Fatal(err)
	}
	if err := b.remove(v, 0); code(err) != verr.OperationInvalid || !strings.Contains(err.Error(), "'mine'") {
		t.Errorf("removed with a snapshot: %v", err)
	}
	if err := b.remove(v, removeSnapshots); err != nil {
		t.Errorf("not removed with its snapshots: %v", err)
	}
	v = b.must(&pb.CreateRequest{Xml: vol("v", 64<<20)})
	ctx, cancel := context.WithCancel(t.Context())
	used := make(chan error, 1)
	go func() {
		_, err := b.ceph.Run(ctx, "rbd", "bench", "v", "--io-type", "write", "--io-total", "100G")
		used <- err
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if out, err := b.ceph.Run(t.Context(), "rbd", "status", "v"); err == nil && strings.Contains(out, "watcher=") || time.Now().After(deadline) {
			break
		}
	}
	if err := b.remove(v, 0); code(err) != verr.OperationInvalid || !strings.Contains(err.Error(), "in use by") {
		t.Errorf("removed in use: %v", err)
	}
	cancel()
	<-used
	b.nothingLeft()
}

func TestWiping(t *testing.T) {
	b := newBench(t)
	base := b.must(&pb.CreateRequest{Xml: vol("base", 9<<20)})
	if err := b.upload(base, 0, bytes.Repeat([]byte("secret"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	v := b.must(&pb.CreateRequest{Xml: vol("v", 9<<20), FromPool: b.pool, From: base})
	for algorithm, zeros := range map[uint32]bool{0: true, 2: false, 8: false, 9: true} {
		if err := b.upload(v, 3<<20, []byte("secret secret")); err != nil {
			t.Fatal(err)
		}
		stream, err := pb.NewWipeServiceClient(b.conn).Wipe(t.Context(), &pb.WipeRequest{Pool: b.pool, Volume: v, Algorithm: algorithm})
		for err == nil {
			_, err = stream.Recv()
		}
		if code(err) != 0 && err.Error() != "EOF" {
			t.Errorf("algorithm %d: %v", algorithm, err)
		}
		got, _, err := b.download(v, 0, 0, false)
		if err != nil || len(got) != 9<<20 || bytes.Contains(got, []byte("secret")) || zeros && !bytes.Equal(got, make([]byte, 9<<20)) {
			t.Errorf("algorithm %d leaves %d bytes that are not wiped, error %v", algorithm, len(got), err)
		}
	}
}

func TestUploadsAndDownloads(t *testing.T) {
	b := newBench(t)
	const size = 40 << 20
	v := b.must(&pb.CreateRequest{Xml: vol("v", size)})
	want := make([]byte, size)
	_, _ = rand.Read(want[:1<<20])
	_, _ = rand.Read(want[21<<20-100 : 30<<20+7])
	if err := b.upload(v, 0, want[:1<<20], 20<<20-100, want[21<<20-100:30<<20+7], size-30<<20-7); err != nil {
		t.Fatal(err)
	}
	for _, sparse := range []bool{false, true} {
		got, holes, err := b.download(v, 0, 0, sparse)
		if err != nil || !bytes.Equal(got, want) || sparse != (holes > 20<<20) {
			t.Errorf("sparse %v: %d bytes with holes of %d, error %v", sparse, len(got), holes, err)
		}
		got, _, err = b.download(v, 21<<20-200, 5<<20+1, sparse)
		if err != nil || !bytes.Equal(got, want[21<<20-200:26<<20-199]) {
			t.Errorf("sparse %v: %d bytes of a part, error %v", sparse, len(got), err)
		}
	}
	// A hole over data makes zeros of just that.
	if err := b.upload(v, 22<<20+1, 1<<20); err != nil {
		t.Fatal(err)
	}
	clear(want[22<<20+1 : 23<<20+1])
	if got, _, err := b.download(v, 0, 0, true); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after a hole: %d bytes, error %v", len(got), err)
	}
	if err := b.upload(v, size-10, make([]byte, 11)); code(err) != verr.OperationFailed {
		t.Errorf("written beyond the end: %v", err)
	}
	if _, _, err := b.download(v, size+1, 0, false); code(err) != verr.SystemError {
		t.Errorf("read beyond the end: %v", err)
	}
	if err := b.upload(&pb.Volume{Name: "none"}, 0); code(err) != verr.NoStorageVol {
		t.Errorf("written to none: %v", err)
	}
}

func TestWhatCannotConnectSaysWhy(t *testing.T) {
	b := newBench(t)
	wrong := b.define(b.ceph.Source(cephtest.Pool, cephtest.User, "u"), []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x000123456789abcdef"))
	missing := b.define(b.ceph.Source("absent", cephtest.User, "u"), b.key(b.ceph.Key))
	dead := b.define("<source><host name='127.0.0.1' port='1'/><name>rbd</name></source>", nil)
	for name, c := range map[string]struct {
		pool *pb.Pool
		want string
	}{"a wrong key": {wrong, "key is wrong"}, "a pool that is not there": {missing, "'absent'"}, "no monitor": {dead, "127.0.0.1:1"}} {
		begun := time.Now()
		_, err := pb.NewPoolServiceClient(b.conn).Start(t.Context(), &pb.StartRequest{Pool: c.pool})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", name, err)
		}
		t.Logf("%s, after %v: %v", name, time.Since(begun).Round(time.Millisecond), err)
	}
}

// TestWithoutMonitorsCephsOwnFileCounts has monitors and user come from Ceph's configuration file.
func TestWithoutMonitorsCephsOwnFileCounts(t *testing.T) {
	b := newBench(t)
	b.must(&pb.CreateRequest{Xml: vol("v", 1<<20)})
	t.Setenv("CEPH_CONF", b.ceph.Conf())
	all, _, err := b.refresh(b.define("<source><name>rbd</name></source>", nil))
	if err != nil || len(all) != 1 || len(all["v"].GetNetwork().GetHosts()) != 0 {
		t.Errorf("volumes %v, error %v", all, err)
	}
}

func TestAnImageThatCannotBeReadIsTold(t *testing.T) {
	b := newBench(t)
	b.must(&pb.CreateRequest{Xml: vol("good", 1<<20)})
	b.must(&pb.CreateRequest{Xml: vol("bad", 1<<20)})
	if _, err := b.ceph.Run(t.Context(), "sh", "-c", "rados -p rbd rm rbd_header.$(rados -p rbd get rbd_id.bad - | tail -c +5)"); err != nil {
		t.Fatal(err)
	}
	all, _, err := b.refresh(b.pool)
	if err != nil || len(all) != 2 || all["good"].GetTrouble() != "" || all["bad"].GetTrouble() == "" {
		t.Errorf("volumes %v, error %v", all, err)
	}
}

// TestWhatIsReadIsWhatLibrbdSays compares sizes that were read from metadata with those that Ceph's own command finds.
func TestWhatIsReadIsWhatLibrbdSays(t *testing.T) {
	b := newBench(t)
	for n, how := range []string{"--image-feature layering", "", "--order 25", "--object-size 64K", "--image-feature layering,exclusive-lock,object-map,fast-diff,striping --stripe-unit 65536 --stripe-count 4"} {
		name := fmt.Sprint("i", n)
		script := fmt.Sprintf("rbd create %[1]s --size 70M %[2]s && rbd bench %[1]s --io-type write --io-pattern rand --io-size 4K --io-total 40K", name, how)
		if n != 1 {
			script += fmt.Sprintf(" && rbd snap create %[1]s@s && rbd bench %[1]s --io-type write --io-pattern rand --io-size 4K --io-total 40K && rbd resize %[1]s --size 50M --allow-shrink", name)
		}
		if _, err := b.ceph.Run(t.Context(), "sh", "-c", script); err != nil {
			t.Fatal(err)
		}
	}
	all, _, err := b.refresh(b.pool)
	if err != nil || len(all) != 5 {
		t.Fatalf("volumes %v, error %v", all, err)
	}
	d := &Driver{core: faketest.NewCore(t), sessions: session.NewStore(librados.Dial, hclog.NewNullLogger())}
	defer d.sessions.Drop(b.pool.Uuid)
	for name, v := range all {
		u, err := d.open(t.Context(), b.pool)
		if err != nil {
			t.Fatal(err)
		}
		image, err := u.Open(name, true)
		if err != nil {
			t.Fatal(err)
		}
		size, err := image.Size()
		if err != nil {
			t.Fatal(err)
		}
		extents, err := image.Extents(0, size, false)
		if err != nil {
			t.Fatal(err)
		}
		used := uint64(0)
		for _, x := range extents {
			used += x.Length
		}
		if name == "i0" {
			used = size // no map
		}
		if v.Capacity != size || v.Allocation != used || v.Trouble != "" {
			t.Errorf("%s is read as %d of %d bytes, is %d of %d: %s", name, v.Allocation, v.Capacity, used, size, v.Trouble)
		}
		_ = image.Close()
		u.Release()
	}
}
