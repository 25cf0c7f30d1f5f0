package pool

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}

func TestLifeOfAPool(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	p := b.running("one")
	if v := p.View(); v.Condition != Running || !v.Persistent {
		t.Fatalf("after start: %+v", v)
	}
	b.volume(p, "b")
	b.volume(p, "a")
	if got := b.names(p); got != "a b" {
		t.Errorf("volumes %q", got)
	}
	xml, err := p.XML(ctx, 0)
	want := "</uuid>\n  <capacity unit='bytes'>1000</capacity>\n  <allocation unit='bytes'>20</allocation>\n  <available unit='bytes'>980</available>\n  <path>"
	if err != nil || !strings.Contains(xml, want) {
		t.Errorf("description %s, error %v", xml, err)
	}
	if err := p.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Undefine(ctx); code(err) != verr.OperationInvalid {
		t.Errorf("undefine of a pool in use: %v", err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Volumes(ctx); code(err) != verr.OperationInvalid {
		t.Errorf("volumes of a pool that is off: %v", err)
	}
	if err := p.Undefine(ctx); err != nil {
		t.Fatal(err)
	}
	if got := b.told(5); got != "one 0, one 2, one refreshed, one 3, one 1" {
		t.Errorf("told %q", got)
	}
	if err := p.Start(ctx, 0); code(err) != verr.NoStoragePool {
		t.Errorf("start of an undefined pool: %v", err)
	}
}

func TestTransientPoolGoesWithItsEnd(t *testing.T) {
	b := newBench(t)
	p, err := b.Create(t.Context(), poolXML("one", "/one"), 0)
	if err != nil || p.View().Persistent {
		t.Fatalf("created %+v, error %v", p, err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.All()) != 0 {
		t.Errorf("pools are %v", b.All())
	}
}

func TestDefinitionOfAPoolInUseCountsLater(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	again := strings.Replace(poolXML("one", "/other"), "<path>", "<uuid>"+p.View().UUID.String()+"</uuid><path>", 1)
	if _, err := b.Define(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[uint32]string{0: "<path>/one</path>", xmlInactive: "<path>/other</path>"} {
		if xml, err := p.XML(t.Context(), flags); err != nil || !strings.Contains(xml, want) {
			t.Errorf("description %d is %s, error %v", flags, xml, err)
		}
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if xml, err := p.XML(t.Context(), 0); err != nil || !strings.Contains(xml, "<path>/other</path>") {
		t.Errorf("description is %s, error %v", xml, err)
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	p := b.running("one")
	v := b.volume(p, "v")
	for name, c := range map[string]struct {
		do   func() error
		want verr.Code
	}{
		"two pools over one source": {func() error { _, err := b.Define(ctx, poolXML("two", "/one")); return err }, verr.OperationFailed},
		"a name with another uuid": {func() error {
			_, err := b.Define(ctx, strings.Replace(poolXML("one", "/x"), "<path>", "<uuid>"+uuid.NewString()+"</uuid><path>", 1))
			return err
		}, verr.OperationFailed},
		"an unknown type":            {func() error { _, err := b.Define(ctx, "<pool type='cupboard'/>"); return err }, verr.Internal},
		"no type":                    {func() error { _, err := b.Define(ctx, "<pool/>"); return err }, verr.XMLError},
		"broken XML":                 {func() error { _, err := b.Define(ctx, "<pool type='shelf'>"); return err }, verr.XMLError},
		"a name with a slash":        {func() error { _, err := b.Define(ctx, poolXML("a/b", "/x")); return err }, verr.XMLError},
		"a second start":             {func() error { return p.Start(ctx, 0) }, verr.OperationInvalid},
		"unknown flags":              {func() error { return p.Start(ctx, 64) }, verr.InvalidArg},
		"flags against each other":   {func() error { return p.Build(ctx, buildOverwrite|buildNoOverwrite) }, verr.InvalidArg},
		"building a pool in use":     {func() error { return p.Build(ctx, 0) }, verr.OperationInvalid},
		"a volume that is there":     {func() error { _, err := p.CreateVolume(ctx, volXML("v"), 0, nil); return err }, verr.StorageVolExist},
		"a volume without a name":    {func() error { _, err := p.CreateVolume(ctx, "<volume/>", 0, nil); return err }, verr.XMLError},
		"a volume that is not there": {func() error { _, err := p.Volume(ctx, "w"); return err }, verr.NoStorageVol},
		"a key of nothing":           {func() error { _, err := b.VolumeByKey(ctx, "w"); return err }, verr.NoStorageVol},
		"a path of nothing":          {func() error { _, err := b.VolumeByPath(ctx, "w"); return err }, verr.NoStorageVol},
		"shrinking by chance":        {func() error { return v.Resize(ctx, 1, 0) }, verr.InvalidArg},
		"growing without room":       {func() error { return v.Resize(ctx, 1<<40, volAllocate) }, verr.OperationFailed},
		"growing beyond numbers":     {func() error { return v.Resize(ctx, 1<<63+1<<63-1, volDelta) }, verr.InvalidArg},
		"what the driver cannot do":  {func() error { return v.Wipe(ctx, 0) }, verr.NoSupport},
		"a wiping of no kind":        {func() error { return v.Wipe(ctx, 77) }, verr.InvalidArg},
	} {
		if err := c.do(); code(err) != c.want {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
	if got := b.names(p); got != "v" || len(b.All()) != 1 {
		t.Errorf("volumes %q of %d pools after refusals", got, len(b.All()))
	}
}

func TestVolumesOfDisksAreResolved(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	b.volume(p, "v")
	if kind, v, err := b.Resolve(t.Context(), "one", "v"); err != nil || kind != "shelf" || v.GetName() != "v" {
		t.Errorf("%s %v %v", kind, v, err)
	}
	if _, _, err := b.Resolve(t.Context(), "one", "w"); code(err) != verr.NoStorageVol {
		t.Errorf("a volume that is not there: %v", err)
	}
	if _, _, err := b.Resolve(t.Context(), "two", "v"); code(err) != verr.NoStoragePool {
		t.Errorf("a pool that is not there: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.Resolve(t.Context(), "one", "v")
	if code(err) != verr.ConfigUnsupported || !strings.Contains(err.Error(), "storage pool 'one' containing volume 'v' is not active") {
		t.Errorf("a pool that is not in use: %v", err)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	b := newBench(t)
	p, err := b.Define(t.Context(), poolXML("one", "/one"))
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"start", "refresh"} {
		b.shelf.Refuse = map[string]error{call: verr.New(verr.OperationFailed, "no")}
		if err := p.Start(t.Context(), 0); code(err) != verr.OperationFailed {
			t.Errorf("start when %s fails: %v", call, err)
		}
		if v := p.View(); v.Active() || b.shelf.Active["one"] {
			t.Errorf("after a failed %s: %+v, the driver's is %v", call, v, b.shelf.Active["one"])
		}
	}
}

func TestSecretsAreBroughtAlong(t *testing.T) {
	b := newBench(t)
	p, err := b.Define(t.Context(), poolXML("one", "/secret"))
	if err == nil {
		err = p.Start(t.Context(), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := b.shelf.Secrets; len(s) != 1 || string(s[0].Value) != "open sesame" {
		t.Errorf("the driver got %v", s)
	}
	if xml, err := p.XML(t.Context(), 0); err != nil || strings.Contains(xml, "sesame") {
		t.Errorf("description %s, error %v", xml, err)
	}
}

// A refresh that hangs holds up nobody, and what changes meanwhile stays changed.
func TestRefreshHoldsUpNobody(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	gone := b.volume(p, "gone")
	b.volume(p, "stays")
	hold := make(chan struct{})
	b.shelf.Lock()
	b.shelf.Hold = hold
	b.shelf.Unlock()
	var refresh sync.WaitGroup
	refresh.Go(func() {
		if err := p.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for len(p.looking) == 0 {
		time.Sleep(time.Millisecond)
	}
	for p.volumes.isLooking() == false {
		time.Sleep(time.Millisecond)
	}
	b.volume(p, "new")
	if err := gone.Delete(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := b.names(p); got != "new stays" {
		t.Errorf("during a refresh: %q", got)
	}
	close(hold)
	refresh.Wait()
	if got := b.names(p); got != "new stays" {
		t.Errorf("after a refresh: %q", got)
	}
}

func TestChangeWhoseAnswerIsBadIsLookedAt(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	v := b.volume(p, "v")
	b.shelf.Refuse = map[string]error{"created": verr.New(verr.OperationFailed, "made, and then failed"), "removed": verr.New(verr.OperationFailed, "gone, and then failed")}
	if _, err := p.CreateVolume(t.Context(), volXML("w"), 0, nil); code(err) != verr.OperationFailed {
		t.Fatal(err)
	}
	if err := v.Delete(t.Context(), 0); code(err) != verr.OperationFailed {
		t.Fatal(err)
	}
	if got := b.names(p); got != "w" {
		t.Errorf("volumes are %q, which is not what the storage has", got)
	}
}

// TestChangesThatChangeOthersAreSeen holds that a pool whose volumes hang together is looked at after each change of one.
func TestChangesThatChangeOthersAreSeen(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	v := b.volume(p, "v")
	b.shelf.Entangled = true
	if err := p.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"making":   func() error { _, err := p.CreateVolume(t.Context(), volXML("w"), 0, nil); return err },
		"removing": func() error { return v.Delete(t.Context(), 0) },
	} {
		b.shelf.Pools["one"][name] = make([]byte, 1)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got := b.names(p); !strings.Contains(got, name) {
			t.Errorf("%s one of %q does not show what else became of them", name, got)
		}
	}
}

func TestFreeRoomIsShownWithItsDevice(t *testing.T) {
	const text = "<pool>\n  <source>\n    <device path='/dev/a&amp;b' part_separator='no'/>\n    <device path='/dev/c'/>\n  </source>\n</pool>\n"
	const want = "<pool>\n  <source>\n    <device path='/dev/a&amp;b' part_separator='no'>\n      <freeExtent start='1' end='2'/>\n      <freeExtent start='5' end='6'/>\n" +
		"    </device>\n    <device path='/dev/c'/>\n  </source>\n</pool>\n"
	got := withFree(text, []*pb.Extent{{Device: "/dev/a&b", Start: 1, End: 2}, {Device: "/dev/x", Start: 3, End: 4}, {Device: "/dev/a&b", Start: 5, End: 6}})
	if got != want || withFree(text, nil) != text {
		t.Errorf("shown as %s", got)
	}
}

func TestVolumesAreFoundAndChanged(t *testing.T) {
	b := newBench(t)
	p, other := b.running("one"), b.running("two")
	v := b.volume(p, "v")
	for _, found := range []func() (Volume, error){
		func() (Volume, error) { return b.VolumeByKey(t.Context(), v.Key) },
		func() (Volume, error) { return b.VolumeByPath(t.Context(), v.Path) },
	} {
		if got, err := found(); err != nil || got.Pool != p || got.Name != "v" {
			t.Errorf("found %+v, error %v", got, err)
		}
	}
	for _, c := range []struct {
		size  uint64
		flags uint32
		want  uint64
	}{{20, 0, 20}, {5, volDelta, 25}, {5, volDelta | volShrink, 20}, {7, volShrink, 7}} {
		v, _ = p.Volume(t.Context(), "v")
		if err := v.Resize(t.Context(), c.size, c.flags); err != nil {
			t.Fatal(err)
		}
		if now, err := p.Volume(t.Context(), "v"); err != nil || now.Capacity != c.want {
			t.Errorf("capacity %d, error %v, want %d", now.Capacity, err, c.want)
		}
	}
	copied, err := other.CreateVolume(t.Context(), volXML("copy"), 0, &v)
	if err != nil || copied.Capacity != 7 {
		t.Errorf("copy %+v, error %v", copied, err)
	}
	if xml, err := copied.XML(); err != nil || !strings.Contains(xml, "<key>/shelf/two/copy</key>") || !strings.Contains(xml, "<format type='raw'/>") {
		t.Errorf("description %s, error %v", xml, err)
	}
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	b := newBench(t)
	p := b.running("one")
	v := b.volume(p, "v")
	u, err := v.Upload(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Download(t.Context(), 0, 0, false); code(err) != verr.OperationInvalid {
		t.Errorf("a second job on the volume: %v", err)
	}
	if err := p.Stop(t.Context()); code(err) != verr.Internal {
		t.Errorf("stop of a pool that is at work: %v", err)
	}
	for _, err := range []error{u.Write([]byte("head")), u.Hole(3), u.Write([]byte("tail")), u.Finish(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := b.read(v); !bytes.Equal(got, []byte("head\x00\x00\x00tail")) {
		t.Errorf("read %q", got)
	}
	if now, err := p.Volume(t.Context(), "v"); err != nil || now.Capacity != 11 {
		t.Errorf("volume is %+v, error %v", now, err)
	}
	u, err = v.Upload(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	for range 1000 {
		if failed = u.Write(make([]byte, 64)); failed != nil {
			break
		}
	}
	if failed == nil {
		failed = u.Finish(t.Context())
	} else {
		u.Abort()
	}
	if code(failed) != verr.OperationFailed || !strings.Contains(fmt.Sprint(failed), "full") {
		t.Errorf("writing more than fits: %v", failed)
	}
	if p.busy() {
		t.Error("jobs are left")
	}
}

func TestPoolsComeBack(t *testing.T) {
	b := newBench(t)
	p := b.running("kept")
	b.volume(p, "v")
	if _, err := b.Create(t.Context(), poolXML("transient", "/transient"), 0); err != nil {
		t.Fatal(err)
	}
	boot, err := b.Define(t.Context(), poolXML("boot", "/boot"))
	if err == nil {
		err = boot.SetAutostart(t.Context(), true)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.restart()
	p, err = b.ByName("kept")
	if err != nil || !p.state.Load().Active() {
		t.Fatalf("pool is %+v, error %v", p, err)
	}
	var ask sync.WaitGroup
	ask.Go(func() { // whoever asks before the pool was looked at waits for that
		if got := b.names(p); got != "v" {
			t.Errorf("volumes are %q", got)
		}
	})
	ask.Go(func() { // and a guest that starts with the host waits for a pool that does
		if _, _, err := b.Resolve(t.Context(), "boot", "v"); code(err) != verr.NoStorageVol {
			t.Errorf("a volume of a pool to start at boot: %v", err)
		}
	})
	b.Recover(t.Context(), b.conn, []string{"shelf"})
	ask.Wait()
	boot, err = b.ByName("boot")
	if err != nil || !boot.state.Load().Active() {
		t.Fatalf("pool to start at boot is %+v, error %v", boot, err)
	}
	if err := boot.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.Recover(t.Context(), b.conn, []string{"shelf"})
	if boot, err = b.ByName("boot"); err != nil || boot.state.Load().Active() {
		t.Fatalf("pool that was stopped on this boot is %+v, error %v", boot, err)
	}
	b.boot = "second"
	b.shelf.Active = map[string]bool{}
	b.restart()
	b.Recover(t.Context(), b.conn, []string{"shelf"})
	var got []string
	for _, p := range b.All() {
		v := p.View()
		got = append(got, fmt.Sprint(v.Name, " ", v.Condition))
	}
	if s := strings.Join(got, ", "); s != "boot 2, kept 0" {
		t.Errorf("after another boot: %s", s)
	}
}

// TestTasksAreToldAndCancelled looks at long work while it goes on, and ends it.
func TestTasksAreToldAndCancelled(t *testing.T) {
	b := newBench(t)
	p := b.running("p")
	if n := len(b.tasks.List()); n != 0 {
		t.Fatalf("%d tasks of nothing", n)
	}
	b.shelf.Hold = make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- p.Refresh(t.Context()) }()
	var all []Task
	for len(all) == 0 {
		all = b.tasks.List()
	}
	if all[0].Kind != "refresh" || all[0].Pool != "p" || all[0].Volume != "" || time.Since(all[0].Since) > time.Minute {
		t.Errorf("task %+v", all[0])
	}
	if err := b.tasks.Cancel(all[0].ID + 1); code(err) != verr.InvalidArg {
		t.Errorf("cancel of no task: %v", err)
	}
	if err := b.tasks.Cancel(all[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := <-done; code(err) != verr.OperationAborted || !strings.Contains(err.Error(), "refresh of storage pool 'p' was cancelled") {
		t.Errorf("the refresh ended with %v", err)
	}
	b.shelf.Lock() // the refresh may not have left it yet
	close(b.shelf.Hold)
	b.shelf.Hold = nil
	b.shelf.Unlock()
	if n := len(b.tasks.List()); n != 0 {
		t.Errorf("%d tasks are left", n)
	}
	v, err := p.CreateVolume(t.Context(), "<volume><name>v</name><capacity>100</capacity></volume>", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := v.Upload(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(make([]byte, 40)); err != nil {
		t.Fatal(err)
	}
	all = b.tasks.List()
	if len(all) != 1 || all[0].Kind != "upload" || all[0].Volume != "v" || all[0].Done != 40 || all[0].Total != v.Capacity {
		t.Errorf("tasks %+v", all)
	}
	if err := b.tasks.Cancel(all[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(t.Context()); code(err) != verr.OperationAborted || !strings.Contains(err.Error(), "upload of volume 'v' of storage pool 'p' was cancelled") {
		t.Errorf("the upload ended with %v", err)
	}
}

// wiper is a driver that makes no volumes, and wipes those that there are.
type wiper struct {
	storage.Driver
	wiped string
}

func (w *wiper) Wipe(_ context.Context, req *pb.WipeRequest, _ storage.Progress) error {
	w.wiped = req.GetVolume().GetName()
	return nil
}

func TestVolumesThatADriverDoesNotMakeAreWiped(t *testing.T) {
	b := newBench(t)
	b.volume(b.running("p"), "v")
	w := &wiper{Driver: b.shelf}
	b.conn = faketest.Client(t, plugin.Plugin{Name: "wiper", Version: "1.0.0", Storage: func(plugin.Core) (storage.Driver, error) { return w, nil }})
	b.restart()
	p, err := b.ByName("p")
	if err == nil {
		err = p.Refresh(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Volume(t.Context(), "v")
	if err == nil {
		err = v.Wipe(t.Context(), 0)
	}
	_, createErr := p.CreateVolume(t.Context(), "<volume><name>w</name><capacity>1</capacity></volume>", 0, nil)
	for what, err := range map[string]error{"volume creation": createErr, "vol deletion": v.Delete(t.Context(), 0), "changing of volume capacity": v.Resize(t.Context(), 99, 0)} {
		if code(err) != verr.NoSupport || !strings.HasSuffix(err.Error(), "storage pool does not support "+what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err != nil || w.wiped != "v" || b.names(p) != "v" {
		t.Errorf("volume %q is wiped, there are %q, error %v", w.wiped, b.names(p), err)
	}
}

// TestRefreshOutlivesItsDriver has a driver die in the middle of a refresh.
func TestRefreshOutlivesItsDriver(t *testing.T) {
	b := newBench(t)
	p := b.running("p")
	b.volume(p, "v")
	b.shelf.Deaths = lookTries - 1
	if err := p.Refresh(t.Context()); err != nil || b.names(p) != "v" {
		t.Errorf("volumes %q, error %v", b.names(p), err)
	}
	b.shelf.Deaths = lookTries
	if err := p.Refresh(t.Context()); err == nil || b.shelf.Deaths != 0 || b.names(p) != "v" {
		t.Errorf("a driver that dies again and again: volumes %q, error %v", b.names(p), err)
	}
}
