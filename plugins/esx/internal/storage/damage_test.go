package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// begun is an upload of which the first half is written.
func (b *bench) begun(pool *pb.Pool, v *pb.Volume, data []byte) storage.Sink {
	b.Helper()
	sink, err := b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v})
	if err != nil {
		b.Fatal(err)
	}
	if err := sink.Write(b.ctx(), data[:len(data)/2]); err != nil {
		b.Fatal(err)
	}
	return sink
}

// wantContent checks what is in a volume.
func (b *bench) wantContent(when string, pool *pb.Pool, v *pb.Volume, want []byte) {
	b.Helper()
	got, err := b.read(pool, v, 0, 0)
	if err != nil || !bytes.Equal(got, want) {
		b.Errorf("%s: %d bytes came (%v), which are not the %d that should", when, len(got), err, len(want))
	}
}

func TestUploadThatIsCutLeavesTheVolume(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 4*mib, "")
	old, data := pattern(4*mib, 1), pattern(4*mib, 2)
	if err := b.write(pool, v, 0, old); err != nil {
		t.Fatal(err)
	}
	sink := b.begun(pool, v, data)
	b.server.Gate.Cut()
	var err error
	for range 100 {
		if err = sink.Write(b.ctx(), data[:10_000]); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("an endpoint that is cut off takes bytes")
	}
	time.AfterFunc(200*time.Millisecond, b.server.Gate.Open)
	sink.Abort()
	b.wantContent("after the endpoint was cut off", pool, v, old)
	b.wantFiles(dir, "a/b-flat.vmdk", "a/b.vmdk")
}

func TestUploadThatIsGivenUpLeavesTheVolume(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "a/c.iso", 2*mib, "")
	old, data := pattern(2*mib, 1), pattern(2*mib, 2)
	if err := b.write(pool, v, 0, old); err != nil {
		t.Fatal(err)
	}
	b.begun(pool, v, data).Abort()
	b.wantFiles(dir, "a/c.iso")
	b.wantContent("given up", pool, v, old)

	sink := b.begun(pool, v, data)
	b.server.ExpireSessions()
	if err := sink.Write(b.ctx(), data[mib:]); err != nil {
		t.Errorf("after the session has ended: %v", err)
	}
	if err := sink.Finish(b.ctx()); err != nil {
		t.Errorf("after the session has ended: %v", err)
	}
	b.wantContent("after the session has ended", pool, v, data)

	b.server.Spoiler.Fault("MoveDatastoreFile_Task", "NoPermission")
	err := b.write(pool, v, 0, old)
	b.wantCode("without permission to name it", err, verr.AccessDenied, "c.iso")
	b.wantFiles(dir, "a/c.iso")
	b.server.Spoiler.Off()
	b.server.Spoiler.Unavailable("PUT file")
	b.wantCode("while the endpoint starts", b.write(pool, v, 0, old), verr.OperationFailed, "503")
	b.server.Spoiler.Off()
	b.wantContent("after all that", pool, v, data)
	b.wantFiles(dir, "a/c.iso")
}

func TestTransferInWhichNothingMovesEnds(t *testing.T) {
	how := options()
	how.Stall = 4 * time.Second
	b := openWith(t, vimtest.Options{}, how)
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 32*mib, "")
	source, err := b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	sink := b.begun(pool, v, pattern(2*mib, 1))
	b.server.Gate.Hang()
	begun := time.Now()
	for err == nil {
		_, _, err = source.Next(b.ctx())
	}
	b.wantCode("download", err, verr.OperationTimeout, "nothing has moved")
	for err = nil; err == nil; {
		err = sink.Write(b.ctx(), make([]byte, 256<<10))
	}
	b.wantCode("upload", err, verr.OperationTimeout, "nothing has moved")
	if took := time.Since(begun); took > slack {
		t.Errorf("they ended after %s", took)
	}
	b.server.Gate.Open()
	sink.Abort()
	if err := source.Close(); err != nil {
		t.Error(err)
	}
}

func TestDownloadEndsWithItsCaller(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 32*mib, "")
	source, err := b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx())
	cancel()
	for range 1000 {
		if _, _, err = source.Next(ctx); err != nil {
			break
		}
	}
	b.wantCode("a caller that is gone", err, verr.OperationAborted)
	if err := source.Close(); err != nil {
		t.Error(err)
	}
}

func TestTaskThatNeverEndsIsCancelledAtTheHost(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", mib, "")
	b.server.StuckDisks(true)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(b.ctx(), 200*time.Millisecond)
		b.Cleanup(cancel)
		return ctx
	}
	err := b.driver.Wipe(short(), &pb.WipeRequest{Pool: pool, Volume: v}, noProgress)
	b.wantCode("wipe", err, verr.OperationTimeout, "a/b.vmdk", "ended at the host")

	b.server.Spoiler.Fault("CancelTask", "NotSupported")
	err = b.driver.Wipe(short(), &pb.WipeRequest{Pool: pool, Volume: v}, noProgress)
	b.wantCode("wipe that cannot be cancelled", err, verr.OperationTimeout, "goes on at the host", "cannot cancel", "task")
	b.server.Spoiler.Off()
	b.server.StuckDisks(false)
	b.create(pool, "a/after.vmdk", mib, "") // when what was stuck has ended

	ctx, cancel := context.WithCancel(b.ctx())
	b.server.StuckDisks(true)
	time.AfterFunc(200*time.Millisecond, func() {
		cancel()
		time.Sleep(100 * time.Millisecond)
		b.server.StuckDisks(false)
	})
	_, err = b.driver.Create(ctx, &pb.CreateRequest{Pool: pool, Xml: definition("new/c.vmdk", mib, "")}, noProgress)
	b.wantCode("create", err, verr.OperationAborted, "ended at the host", "folder '[ds1] new'")
	b.wantFiles(dir, "a/after-flat.vmdk", "a/after.vmdk", "a/b-flat.vmdk", "a/b.vmdk")
	b.create(pool, "new/c.vmdk", mib, "")
}

func TestTaskIsFollowedPastALostSession(t *testing.T) {
	how := options()
	how.Patience = 4 * time.Second
	b := openWith(t, vimtest.Options{}, how)
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", mib, "")
	wipe := func() chan error {
		b.server.StuckDisks(true)
		done := make(chan error, 1)
		go func() { done <- b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: v}, noProgress) }()
		for b.server.Spoiler.Calls("ZeroFillVirtualDisk_Task") == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		return done
	}
	done := wipe()
	b.server.Gate.Cut()
	time.Sleep(100 * time.Millisecond)
	b.server.Gate.Open()
	b.server.ExpireSessions()
	time.Sleep(100 * time.Millisecond)
	b.server.StuckDisks(false)
	if err := <-done; err != nil {
		t.Errorf("a task whose endpoint was away for a moment: %v", err)
	}
	if n := b.server.Spoiler.Calls("ZeroFillVirtualDisk_Task"); n != 1 {
		t.Errorf("it was started %d times", n)
	}
	done = wipe()
	b.server.Gate.Cut()
	err := <-done
	b.wantCode("a task whose endpoint stays away", err, verr.Internal, "not known", "task")
	b.server.StuckDisks(false)
	b.server.Gate.Open()
}

func TestDatastoreThatGoesAwayEndsWhatIsDoneWithIt(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 2*mib, "")
	data := pattern(2*mib, 1)
	sink := b.begun(pool, v, data)
	b.server.RemoveDatastore("ds1")
	b.until("gone", func(view *inventory.View) bool { return view.Pools[pool.GetUuid()] == nil })
	err := sink.Write(b.ctx(), data[mib:])
	if err == nil {
		err = sink.Finish(b.ctx())
	} else {
		sink.Abort()
	}
	b.wantCode("upload to what is gone", err, verr.NoStoragePool, "ds1")
	err = b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v})
	b.wantCode("delete in what is gone", err, verr.NoStoragePool)
}

func TestWhatWasBrokenOffIsHiddenAndRemovedAfterADay(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	b.create(pool, "a/b.vmdk", mib, "")
	old, young := time.Now().Add(-25*time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	text, err := os.ReadFile(filepath.Join(dir, "a/b.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	for _, stamp := range []int64{old, young} {
		put(t, dir, fmt.Sprintf("a/.lodge-making-%x-1.vmdk", stamp), bytes.ReplaceAll(text, []byte("b-flat"), fmt.Appendf(nil, ".lodge-making-%x-1-flat", stamp)))
		put(t, dir, fmt.Sprintf("a/.lodge-making-%x-1-flat.vmdk", stamp), nil)
		put(t, dir, fmt.Sprintf("a/.lodge-making-%x-2.vmdk", stamp), pattern(1000, 1)) // an extent that was to be
		put(t, dir, fmt.Sprintf("a/.lodge-making-%x-3.iso", stamp), nil)
	}
	put(t, dir, "a/.lodge-making-odd.iso", nil)
	if all := b.volumes(pool); len(all) != 1 || all["a/b.vmdk"] == nil {
		t.Errorf("the volumes are %v", all)
	}
	hidden := fmt.Sprintf("a/.lodge-making-%x-", young)
	b.wantFiles(dir, hidden+"1-flat.vmdk", hidden+"1.vmdk", hidden+"2.vmdk", hidden+"3.iso", "a/.lodge-making-odd.iso", "a/b-flat.vmdk", "a/b.vmdk")
	name := hidden + "3.iso"
	_, err = b.driver.Look(b.ctx(), pool, name)
	b.wantCode("look at what is being made", err, verr.NoStorageVol)
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", mib, "")
	refresh := func() error {
		_, err := b.driver.Refresh(b.ctx(), pool, func(...*pb.Volume) error { return nil })
		return err
	}
	remove := func() error { return b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}) }
	for method, call := range map[string]func() error{
		"SearchDatastoreSubFolders_Task": refresh, "SearchDatastore_Task": remove, "DeleteVirtualDisk_Task": remove,
	} {
		for how, spoil := range map[string]func(){
			"garbage":  func() { b.server.Spoiler.Garbage(method) },
			"nothing":  func() { b.server.Spoiler.Empty(method) },
			"a fault":  func() { b.server.Spoiler.Fault(method, "RuntimeFault") },
			"locked":   func() { b.server.Spoiler.Fault(method, "FileLocked") },
			"no space": func() { b.server.Spoiler.Fault(method, "NoDiskSpace") },
			"503":      func() { b.server.Spoiler.Unavailable(method) },
		} {
			spoil()
			if err := call(); err == nil || verr.From(err).Domain != verr.FromStorage || !strings.Contains(err.Error(), "[ds1]") {
				t.Errorf("%s in answer of %s: %v", how, method, err)
			}
			b.server.Spoiler.Off()
		}
	}
	b.server.Spoiler.Fault("QueryVirtualDiskUuid", "FileLocked")
	again := b.create(pool, "a/c.vmdk", mib, "")
	if again.GetKey() != "[ds1] a/c.vmdk" {
		t.Errorf("a disk that does not tell its UUID has the key %q", again.GetKey())
	}
	b.server.Spoiler.Off()
	b.wantFiles(dir, "a/b-flat.vmdk", "a/b.vmdk", "a/c-flat.vmdk", "a/c.vmdk")
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	for method, fault := range map[string]string{"CreateVirtualDisk_Task": "NoDiskSpace", "MoveVirtualDisk_Task": "NoPermission", "MakeDirectory": "NoPermission"} {
		b.server.Spoiler.Fault(method, fault)
		_, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition("a/b.vmdk", mib, "")}, noProgress)
		if err == nil || !strings.Contains(err.Error(), "[ds1] a") {
			t.Errorf("%s of %s: %v", fault, method, err)
		}
		b.server.Spoiler.Off()
		b.wantFiles(dir)
	}
	b.create(pool, "a/b.vmdk", mib, "")
	b.server.Spoiler.Fault("DeleteVirtualDisk_Task", "FileLocked")
	b.server.Spoiler.Fault("MoveVirtualDisk_Task", "FileLocked")
	_, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition("a/c.vmdk", mib, "")}, noProgress)
	b.wantCode("create that cannot be undone", err, verr.OperationInvalid, "a/c.vmdk", "may be left", ".lodge-making-")
}

func TestEndpointThatIsClosedEndsEverything(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 8*mib, "")
	source, err := b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		b.endpoint.Close()
		close(closed)
	}()
	for err == nil {
		_, _, err = source.Next(b.ctx())
	}
	if err := source.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-closed:
	case <-time.After(slack):
		t.Fatal("the endpoint does not close")
	}
	if _, err := b.driver.Look(b.ctx(), pool, "a/b.vmdk"); !verr.Is(err, verr.InvalidConn) {
		t.Errorf("at a closed endpoint the error is %v", err)
	}
}
