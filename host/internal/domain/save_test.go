package domain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/saveimage"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// fakeSaver saves the guests of a fakeDriver: their state is a word.
type fakeSaver struct {
	pb.UnimplementedSaveServiceServer
	driver *fakeDriver
	files  *sentFiles
}

const guestState = "the state of a guest"

func (f *fakeSaver) file(token []byte) *os.File {
	file, _ := f.files.files.Load(string(token))
	return file.(*os.File)
}

func (f *fakeSaver) Save(req *pb.SaveRequest, stream grpc.ServerStreamingServer[pb.SaveResponse]) error {
	d, id := f.driver, req.Guest.Uuid
	if err := d.hit("save"); err != nil {
		return verr.Status(err)
	}
	d.mu.Lock()
	ran := !d.stands[id]
	d.stands[id] = true
	d.mu.Unlock()
	err := f.save(req, stream, ran)
	if err != nil && ran && status.Code(err) != codes.Unavailable { // a driver that dies lets nobody go on
		d.mu.Lock()
		delete(d.stands, id)
		d.mu.Unlock()
	}
	return verr.Status(err)
}

func (f *fakeSaver) save(req *pb.SaveRequest, stream grpc.ServerStreamingServer[pb.SaveResponse], ran bool) error {
	stopped := &pb.Change{State: pb.State_STATE_PAUSED, Reason: 1}
	if ran {
		stopped = &pb.Change{State: pb.State_STATE_PAUSED, Reason: 3, Events: []*pb.Event{lifecycle(3, 0)}}
	}
	if err := stream.Send(&pb.SaveResponse{Message: &pb.SaveResponse_Stopped{Stopped: stopped}}); err != nil {
		return err
	}
	if err := f.driver.hit("save.write"); err != nil {
		return err
	}
	if _, err := io.WriteString(f.file(req.Token), guestState); err != nil {
		return err
	}
	progress := &pb.SaveProgress{TotalBytes: 20, ProcessedBytes: 15, RemainingBytes: 5}
	if err := stream.Send(&pb.SaveResponse{Message: &pb.SaveResponse_Progress{Progress: progress}}); err != nil {
		return err
	}
	if err := f.driver.hit("save.done"); err != nil {
		return err
	}
	return stream.Send(&pb.SaveResponse{Message: &pb.SaveResponse_Saved{Saved: &pb.Saved{Format: "word"}}})
}

func (f *fakeSaver) AbortSave(_ context.Context, req *pb.AbortSaveRequest) (*pb.AbortSaveResponse, error) {
	d := f.driver
	if err := d.hit("abort"); err != nil {
		return nil, verr.Status(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id := req.Guest.Uuid
	if d.alive[id] != req.Guest.Generation {
		return nil, verr.Status(verr.New(verr.OperationInvalid, "domain is not running"))
	}
	if !req.Running {
		return &pb.AbortSaveResponse{Change: &pb.Change{State: pb.State_STATE_PAUSED, Reason: 1}}, nil
	}
	c := &pb.Change{State: pb.State_STATE_RUNNING, Reason: 7}
	if d.stands[id] {
		c.Events = []*pb.Event{lifecycle(4, 0)}
	}
	delete(d.stands, id)
	return &pb.AbortSaveResponse{Change: c}, nil
}

func (f *fakeSaver) Restore(req *pb.RestoreRequest, stream grpc.ServerStreamingServer[pb.RestoreResponse]) error {
	d, id := f.driver, req.Start.Guest.Uuid
	if err := d.hit("restore"); err != nil {
		return verr.Status(err)
	}
	text, err := io.ReadAll(f.file(req.Token))
	if err != nil || string(text) != guestState || req.Format != "word" {
		return verr.Status(verr.New(verr.OperationFailed, "state is %q in format %q, error %v", text, req.Format, err))
	}
	d.mu.Lock()
	d.alive[id], d.stands[id] = req.Start.Guest.Generation, true
	d.starts[id]++
	d.mu.Unlock()
	if err := d.hit("restore.done"); err != nil {
		return verr.Status(err)
	}
	return stream.Send(&pb.RestoreResponse{Message: &pb.RestoreResponse_Started{Started: &pb.StartResponse{
		Handle: &pb.Handle{Version: 1, Data: []byte("h")}, LiveXml: req.Start.Xml,
		Change: &pb.Change{State: pb.State_STATE_PAUSED, Reason: 11},
	}}})
}

// started is a persistent guest that runs.
func (b *bench) started(name string) *Domain {
	b.t.Helper()
	d := b.define(name)
	if err := d.Start(b.t.Context(), 0); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// saves lists what is in the folder of managed images.
func (b *bench) saves() []string {
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(b.path), "save"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// is describes a domain: state/reason@id, and what there is of it.
func (b *bench) is(d *Domain) string {
	v := d.View()
	text := fmt.Sprintf("%d/%d@%d", v.State, v.Reason, v.ID)
	b.driver.mu.Lock()
	if b.driver.alive[v.UUID.String()] != 0 {
		text += " alive"
	}
	if b.driver.stands[v.UUID.String()] {
		text += " stands"
	}
	b.driver.mu.Unlock()
	if v.Saved {
		text += " saved"
	}
	if v.Unknown {
		text += " unknown"
	}
	return fmt.Sprintf("%s locks %d files %d", text, b.locks.count(), len(b.saves()))
}

func (b *bench) want(d *Domain, want string) {
	b.t.Helper()
	if got := b.is(d); got != want {
		b.t.Errorf("domain is %s, want %s", got, want)
	}
}

func TestSaveAndRestore(t *testing.T) {
	b := newBench(t)
	d := b.started("guest")
	sub := b.bus.Subscribe()
	defer sub.Close()
	path := filepath.Join(t.TempDir(), "guest.save")
	var locks int
	var during JobInfo
	b.driver.when("stop", func() error { locks = b.locks.count(); return nil })
	if err := d.Save(t.Context(), path, "", 0); err != nil {
		t.Fatal(err)
	}
	if locks != 1 {
		t.Errorf("%d locks were held when the guest was ended", locks)
	}
	b.want(d, "5/5@-1 locks 0 files 0")
	if diff := cmp.Diff([]string{"3/0@1", "0/0@1", "5/4@-1"}, lifecycles(t, sub, 3)); diff != "" {
		t.Error(diff) // the one in the middle is no lifecycle event: the job is complete
	}
	if info := d.LastJob(false); info.Operation != OperationSave || info.Processed != 15 || d.LastJob(true).Operation != 0 {
		t.Errorf("last job is %+v", info)
	}
	if xml, err := b.ImageXML(path, imageSecure); err != nil || !strings.Contains(xml, "<name>guest</name>") || strings.Contains(xml, " id=") {
		t.Errorf("definition in the file is %s, error %v", xml, err)
	}

	b.locks.held["/images/guest"] = Owner{Name: "stranger"}
	if err := b.Restore(t.Context(), path, "", 0); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), "stranger") {
		t.Errorf("restore without its lock: %v", err)
	}
	delete(b.locks.held, "/images/guest")
	lifecycles(t, sub, 0)
	b.driver.when("restore", func() error { during = d.JobInfo(); return nil })
	if err := b.Restore(t.Context(), path, "", 0); err != nil {
		t.Fatal(err)
	}
	if during.Operation != OperationRestore {
		t.Errorf("job during the restore is %+v", during)
	}
	b.want(d, "1/3@3 alive locks 1 files 0")
	if diff := cmp.Diff([]string{"2/2@3", "4/2@3"}, lifecycles(t, sub, 2)); diff != "" {
		t.Error(diff)
	}
	if err := b.Restore(t.Context(), path, "", 0); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("restore of a guest that runs: %v", err)
	}
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(t.Context(), path, "", savePaused); err != nil {
		t.Fatal(err)
	}
	b.want(d, "3/1@4 alive stands locks 1 files 0")
	if diff := cmp.Diff([]string{"6/2@3", "5/1@-1", "2/2@4", "3/0@4"}, lifecycles(t, sub, 4)); diff != "" {
		t.Error(diff)
	}
}

func TestTransientGuestIsSavedAndRestored(t *testing.T) {
	b := newBench(t)
	d, err := b.Create(t.Context(), guestXML("guest"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ManagedSave(t.Context(), "", 0); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("managed save of a transient domain: %v", err)
	}
	path := filepath.Join(t.TempDir(), "guest.save")
	if err := d.Save(t.Context(), path, "", savePaused); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ByName("guest"); !verr.Is(err, verr.NoDomain) {
		t.Errorf("the saved transient domain: %v", err)
	}
	if err := b.Restore(t.Context(), path, "", 0); err != nil {
		t.Fatal(err)
	}
	again, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	b.want(again, "3/1@2 alive stands locks 1 files 0")
	if v := again.View(); v.Persistent {
		t.Error("the restored domain is persistent")
	}
	// A definition that fits may take the place of the saved one, another may not.
	if err := again.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	xml, err := b.ImageXML(path, imageSecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(t.Context(), path, strings.ReplaceAll(xml, "vda", "vdb"), 0); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("restore with another disk: %v", err)
	}
	if err := b.Restore(t.Context(), path, strings.ReplaceAll(xml, "/images/guest", "/images/moved"), saveRunning); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.locks.held["/images/moved"]; !ok {
		t.Errorf("locks are %v", b.locks.held)
	}
}

func TestManagedSave(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	d := b.started("guest")
	for what, err := range map[string]error{
		"remove": d.RemoveManagedSave(ctx), "define": d.DefineManagedSave(ctx, "<domain/>", 0),
		"flags that exclude each other": d.ManagedSave(ctx, "", saveRunning|savePaused),
	} {
		if code := verr.From(err).Code; code != verr.OperationInvalid && code != verr.InvalidArg {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := d.ManagedSave(ctx, "", 0); err != nil {
		t.Fatal(err)
	}
	b.want(d, "5/5@-1 saved locks 0 files 1")
	if n := b.Count(ListManagedSave); n != 1 || b.Count(ListNoManagedSave) != 0 {
		t.Errorf("%d domains are listed with a managed save image", n)
	}
	b.restart()
	d, _ = b.ByName("guest")
	b.want(d, "5/0@-1 saved locks 0 files 1")
	for what, err := range map[string]error{
		"undefine": d.Undefine(ctx, 0), "rename": d.Rename(ctx, "other"), "save": d.ManagedSave(ctx, "", 0),
	} {
		if !verr.Is(err, verr.OperationInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := b.Create(ctx, guestThat("guest", ""), 0); err == nil {
		t.Error("a guest was started from something else while it has a managed save image")
	}
	b.locks.held["/images/guest"] = Owner{Name: "stranger"}
	if err := d.Start(ctx, 0); !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("start without the lock: %v", err)
	}
	delete(b.locks.held, "/images/guest")
	b.want(d, "5/6@-1 saved locks 0 files 1")
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	b.want(d, "1/3@2 alive locks 1 files 0")
	if err := d.ManagedSave(ctx, "", savePaused); err != nil {
		t.Fatal(err)
	}
	xml, err := d.ManagedSaveXML(imageSecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.DefineManagedSave(ctx, strings.Replace(xml, "/images/guest", "/images/moved", 1), saveRunning); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx, createPaused); err != nil {
		t.Fatal(err)
	}
	b.want(d, "3/1@3 alive stands locks 1 files 0")
	if err := d.ManagedSave(ctx, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Undefine(ctx, undefineManagedSave); err != nil {
		t.Fatal(err)
	}
	if left := b.saves(); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestBadManagedImageIsLeft(t *testing.T) {
	b := newBench(t)
	d := b.started("guest")
	if err := d.ManagedSave(t.Context(), "", 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.managedPath(), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context(), 0); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("start from a bad image: %v", err)
	}
	b.want(d, "5/5@-1 saved locks 0 files 1")
	b.driver.hook(func(context.Context) error { return verr.New(verr.OperationFailed, "no") }, nil)
	if err := d.Start(t.Context(), createForceBoot); err == nil {
		t.Error("a start that the driver refuses")
	}
	b.want(d, "5/6@-1 saved locks 0 files 1") // nothing has run
	b.driver.hook(nil, nil)
	if err := d.Start(t.Context(), createForceBoot); err != nil {
		t.Fatal(err)
	}
	b.want(d, "1/1@3 alive locks 1 files 0")
}

func TestFailedSaveLetsTheGuestGoOn(t *testing.T) {
	for name, c := range map[string]struct {
		point string
		fail  func(*Domain) error
		code  verr.Code
	}{
		"the driver refuses": {"save", func(*Domain) error { return verr.New(verr.OperationInvalid, "no") }, verr.OperationInvalid},
		"the disk is full":   {"save.write", func(*Domain) error { return verr.New(verr.OperationFailed, "no space") }, verr.OperationFailed},
		"the driver dies":    {"save.done", func(*Domain) error { return status.Error(codes.Unavailable, "gone") }, verr.OperationFailed},
		"a client aborts": {"save.write", func(d *Domain) error {
			err := d.AbortJob()
			time.Sleep(50 * time.Millisecond) // the driver may go on for a moment
			return err
		}, verr.OperationAborted},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.started("guest")
			b.driver.when(c.point, func() error { return c.fail(d) })
			path := filepath.Join(t.TempDir(), "guest.save")
			if err := os.WriteFile(path, []byte("of before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.Save(t.Context(), path, "", 0); !verr.Is(err, c.code) && verr.From(err).Code != c.code {
				t.Errorf("save: %v, want code %d", err, c.code)
			}
			if v := d.View(); v.State != Running {
				t.Errorf("domain is %+v", v)
			}
			if b.locks.count() != 1 {
				t.Errorf("%d locks", b.locks.count())
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if text, _ := os.ReadFile(path); err != nil || len(entries) != 1 || string(text) != "of before" {
				t.Errorf("folder has %v, file %q", entries, text)
			}
			if err := d.Save(t.Context(), path, "", 0); err != nil {
				t.Errorf("save after that: %v", err)
			}
		})
	}
}

func TestPlacesThatCannotBeSavedTo(t *testing.T) {
	b := newBench(t)
	d := b.started("guest")
	dir := t.TempDir()
	for path, code := range map[string]verr.Code{
		"relative": verr.InvalidArg, filepath.Join(dir, "missing", "x"): verr.SystemError, dir: verr.OperationUnsupported,
		os.DevNull: verr.OperationUnsupported,
	} {
		if err := d.Save(t.Context(), path, "", 0); !verr.Is(err, code) {
			t.Errorf("save to %s: %v", path, err)
		}
	}
	b.want(d, "1/1@1 alive locks 1 files 0")
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(t.Context(), link, "", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := saveimage.Open(target); err != nil {
		t.Errorf("the file behind the link: %v", err)
	}
	for path, code := range map[string]verr.Code{
		filepath.Join(dir, "missing"): verr.SystemError, dir: verr.OperationFailed, os.Args[0]: verr.OperationFailed,
	} {
		if err := b.Restore(t.Context(), path, "", 0); !verr.Is(err, code) {
			t.Errorf("restore from %s: %v", path, err)
		}
	}
}

func TestDestroyBreaksIntoASave(t *testing.T) {
	b := newBench(t)
	d := b.started("guest")
	destroyed := make(chan error, 1)
	b.driver.when("save.write", func() error {
		go func() { destroyed <- d.Destroy(context.Background(), 0) }()
		time.Sleep(50 * time.Millisecond)
		return nil
	})
	if err := d.ManagedSave(t.Context(), "", 0); !verr.Is(err, verr.OperationAborted) {
		t.Errorf("save: %v", err)
	}
	if err := <-destroyed; err != nil {
		t.Fatal(err)
	}
	b.want(d, "5/2@-1 locks 0 files 0")
}

// wreck is what is left when all daemons are killed: copies of what is on disk, of the guests and of their locks.
type wreck struct {
	dir    string
	alive  map[string]uint64
	stands map[string]bool
	held   map[string]Owner
}

func (b *bench) wreck() *wreck {
	b.t.Helper()
	w := &wreck{dir: b.t.TempDir()}
	if err := os.CopyFS(w.dir, os.DirFS(filepath.Dir(b.path))); err != nil {
		b.t.Fatal(err)
	}
	b.driver.mu.Lock()
	w.alive, w.stands = maps.Clone(b.driver.alive), maps.Clone(b.driver.stands)
	b.driver.mu.Unlock()
	b.locks.mu.Lock()
	w.held = maps.Clone(b.locks.held)
	b.locks.mu.Unlock()
	return w
}

// rise starts anew from a wreck, and returns what has become of the domain when all is settled.
func (b *bench) rise(w *wreck) *Domain {
	b.t.Helper()
	b.down()
	dir := filepath.Dir(b.path)
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(w.dir))); err != nil {
		b.t.Fatal(err)
	}
	b.driver = newFakeDriver()
	b.driver.alive, b.driver.stands = w.alive, w.stands
	b.locks = &fakeLocks{held: w.held}
	b.up()
	if err := b.Recover(b.t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
		b.t.Fatal(err)
	}
	d, err := b.ByName("guest")
	if err != nil {
		b.t.Fatal(err)
	}
	for range 500 {
		if s := d.state.Load(); !s.behind() && !s.Unknown {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return d
}

// TestKilledAtEveryPoint kills core and driver together at every point of a managed save and of the start from it. A guest goes on as it
// was, or it is saved, and never both.
func TestKilledAtEveryPoint(t *testing.T) {
	const (
		goesOn = "alive locks 1 files 0"
		saved  = "saved locks 0 files 1"
	)
	for _, c := range []struct{ point, want string }{
		{"save", goesOn},
		{"save.write", goesOn},
		{"save.done", goesOn},
		{"stop", saved},
		{"stop.done", saved},
		{"restore", saved},
		{"restore.done", goesOn},
		{"resume", goesOn},
		{"resume.done", goesOn},
	} {
		t.Run(c.point, func(t *testing.T) {
			b := newBench(t)
			d := b.started("guest")
			var left *wreck
			take := func() error { left = b.wreck(); return nil }
			restores := slices.Contains([]string{"restore", "restore.done", "resume", "resume.done"}, c.point)
			if !restores {
				b.driver.when(c.point, take)
			}
			if err := d.ManagedSave(t.Context(), "", 0); err != nil {
				t.Fatal(err)
			}
			if restores {
				b.driver.when(c.point, take)
				if err := d.Start(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
			}
			if left == nil {
				t.Fatal("the point was not passed")
			}
			d = b.rise(left)
			if got := b.is(d); !strings.HasSuffix(got, c.want) {
				t.Errorf("domain is %s, want %s", got, c.want)
			}
			if v := d.View(); (v.State == Running) != (c.want == goesOn) {
				t.Errorf("domain is %+v", v)
			}
			// Whatever it is, it can be gone on with.
			if c.want == saved {
				if err := d.Start(t.Context(), 0); err != nil {
					t.Error(err)
				}
			} else if err := d.ManagedSave(t.Context(), "", 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDriverDiesAtEveryPoint is the same with the core alive: the client is told what became of its call.
func TestDriverDiesAtEveryPoint(t *testing.T) {
	const (
		goesOn = "alive locks 1 files 0"
		saved  = "saved locks 0 files 1"
	)
	for _, c := range []struct {
		point, want string
		ok          bool
	}{
		{"save", goesOn, false},
		{"save.write", goesOn, false},
		{"save.done", goesOn, false},
		{"stop", saved, false}, // it is saved, only not known to have ended when the call is answered
		{"restore", saved, false},
		{"restore.done", goesOn, true},
		{"resume", goesOn, true},
		{"resume.done", goesOn, true},
	} {
		t.Run(c.point, func(t *testing.T) {
			b := newBench(t)
			d := b.started("guest")
			die := func() error {
				b.incarnation.Add(1)
				return status.Error(codes.Unavailable, "the driver has died")
			}
			do := func() error { return d.ManagedSave(t.Context(), "", 0) }
			if strings.HasPrefix(c.point, "re") {
				if err := do(); err != nil {
					t.Fatal(err)
				}
				do = func() error { return d.Start(t.Context(), 0) }
			}
			b.driver.when(c.point, die)
			if err := do(); (err == nil) != c.ok {
				t.Errorf("the call says %v", err)
			}
			b.Mend(t.Context())
			if got := b.is(d); !strings.HasSuffix(got, c.want) {
				t.Errorf("domain is %s, want %s", got, c.want)
			}
		})
	}
}

// slowStream is what a driver tells, with pauses; after the last message it is silent.
type slowStream struct {
	grpc.ServerStreamingClient[pb.SaveResponse]
	ctx   context.Context
	every time.Duration
	// processed are the bytes of each message.
	processed []uint64
}

func (s *slowStream) Recv() (*pb.SaveResponse, error) {
	pause := s.every
	if len(s.processed) == 0 {
		pause = time.Hour
	}
	select {
	case <-time.After(pause):
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
	p := &pb.SaveProgress{TotalBytes: 100, ProcessedBytes: s.processed[0]}
	s.processed = s.processed[1:]
	return &pb.SaveResponse{Message: &pb.SaveResponse_Progress{Progress: p}}, nil
}

func TestPatienceWithADriver(t *testing.T) {
	for name, c := range map[string]struct {
		patience
		processed []uint64
		want      error
	}{
		"it says nothing any more":    {patience{80 * time.Millisecond, time.Minute}, []uint64{1, 2, 3}, errSilent},
		"it speaks and nothing moves": {patience{time.Minute, 80 * time.Millisecond}, slices.Repeat([]uint64{7}, 100), errStill},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := &work{patience: c.patience}
			stream := &slowStream{ctx: ctx, every: 10 * time.Millisecond, processed: c.processed}
			err := follow(ctx, cancel, w, stream, func(*pb.SaveResponse) bool { return false })
			if !errors.Is(err, c.want) || outcomeOf(err) != slow || !verr.Is(err, verr.OperationTimeout) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
			if info := w.info(); info.Total != 100 || info.Processed == 0 {
				t.Errorf("progress is %+v", info)
			}
		})
	}
}
