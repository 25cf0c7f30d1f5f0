package domain

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// disk is a writable disk on a bus that the fake driver does not care about.
func disk(target, path string) string {
	return fmt.Sprintf("<disk type='file' device='disk'><source file='%s'/><target dev='%s' bus='virtio'/></disk>", path, target)
}

func cdrom(path string) string {
	source := ""
	if path != "" {
		source = "<source file='" + path + "'/>"
	}
	return "<disk type='file' device='cdrom'>" + source + "<target dev='hdc' bus='ide'/></disk>"
}

// running starts a guest that has /images/guest as vda.
func (b *bench) running() *Domain {
	b.t.Helper()
	d := b.define("guest")
	if err := d.Start(b.t.Context(), 0); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// has checks that the live and the lasting definition have a text or not, and which images are locked.
func (b *bench) has(d *Domain, text string, live, config bool, locked ...string) {
	b.t.Helper()
	for which, want := range map[uint32]bool{0: live, xmlInactive: config} {
		if xml, err := d.XML(which); err != nil || strings.Contains(xml, text) != want {
			b.t.Errorf("definition with flags %d has %s: %v, want %v (%v)\n%s", which, text, !want, want, err, xml)
		}
	}
	if diff := cmp.Diff(locked, b.locks.locked()); diff != "" {
		b.t.Errorf("locks: %s", diff)
	}
	if s := d.state.Load(); !s.loose.none() {
		b.t.Errorf("locks are loose: %+v", s.loose)
	}
}

func TestDeviceIsAttachedAndDetached(t *testing.T) {
	for name, c := range map[string]struct {
		flags        uint32
		live, config bool
	}{
		"in the guest":                   {affectLive, true, false},
		"in the definition":              {affectConfig, false, true},
		"in both":                        {affectLive | affectConfig, true, true},
		"in what there is at the moment": {0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.running()
			sub := b.bus.Subscribe()
			defer sub.Close()
			if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), c.flags); err != nil {
				t.Fatal(err)
			}
			locked, want := []string{"/images/guest"}, []string{}
			if c.live {
				locked, want = []string{"/images/b", "/images/guest"}, []string{"+new-disk", "-new-disk"}
				if len(b.driver.leases) != 1 || b.driver.leases[0].Resource != "/images/b" {
					t.Errorf("locks of the call are %v", b.driver.leases)
				}
			}
			b.has(d, "/images/b", c.live, c.config, locked...)
			b.restart()
			if d, _ = b.ByName("guest"); d == nil {
				t.Fatal("the guest is lost")
			}
			b.has(d, "/images/b", c.live, c.config, locked...)
			if err := d.DetachDevice(t.Context(), disk("vdb", "/whatever"), c.flags); err != nil {
				t.Fatal(err)
			}
			b.has(d, "/images/b", false, false, "/images/guest")
			if diff := cmp.Diff(want, heard(t, sub, len(want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInactiveDomainIsChangedInItsDefinition(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), 0); err != nil {
		t.Fatal(err)
	}
	b.restart()
	d, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	if xml, err := d.XML(0); err != nil || !strings.Contains(xml, "/images/b") || b.locks.count() != 0 {
		t.Errorf("%d locks, %v: %s", b.locks.count(), err, xml)
	}
	if err := d.DetachDevice(t.Context(), disk("vdb", ""), affectConfig); err != nil {
		t.Fatal(err)
	}
	if xml, err := d.XML(0); err != nil || strings.Contains(xml, "/images/b") {
		t.Errorf("%v: %s", err, xml)
	}
}

func TestDeviceChangesThatAreRefusedChangeNothing(t *testing.T) {
	b := newBench(t)
	d := b.running()
	off := b.define("off")
	transient, err := b.Create(t.Context(), guestXML("transient"), 0)
	if err != nil {
		t.Fatal(err)
	}
	b.locks.held["/images/taken"] = Owner{Name: "stranger"}
	ctx, both := t.Context(), uint32(affectLive|affectConfig)
	tests := map[string]struct {
		do   func() error
		want verr.Code
	}{
		"what is no device":               {func() error { return d.AttachDevice(ctx, "<fish/>", 0) }, verr.ConfigUnsupported},
		"flags that nobody knows":         {func() error { return d.AttachDevice(ctx, disk("vdb", "/b"), 1<<5) }, verr.InvalidArg},
		"force, which is for updates":     {func() error { return d.AttachDevice(ctx, disk("vdb", "/b"), deviceForce) }, verr.InvalidArg},
		"a guest that does not run":       {func() error { return off.AttachDevice(ctx, disk("vdb", "/b"), affectLive) }, verr.OperationInvalid},
		"a definition that does not last": {func() error { return transient.AttachDevice(ctx, disk("vdb", "/b"), both) }, verr.OperationInvalid},
		"a target that is taken":          {func() error { return d.AttachDevice(ctx, disk("vda", "/b"), affectLive) }, verr.OperationFailed},
		"one in the definition":           {func() error { return d.AttachDevice(ctx, disk("vda", "/b"), both) }, verr.OperationInvalid},
		"an image that is in use":         {func() error { return d.AttachDevice(ctx, disk("vdb", "/images/taken"), both) }, verr.ResourceBusy},
		"detaching what is not there":     {func() error { return d.DetachDevice(ctx, disk("vdb", "/b"), both) }, verr.DeviceMissing},
		"an alias that is not there":      {func() error { return d.DetachDeviceByAlias(ctx, "virtio-disk7", 0) }, verr.DeviceMissing},
		"updating what is not there":      {func() error { return d.UpdateDevice(ctx, disk("vdb", "/b"), both) }, verr.DeviceMissing},
		"a definition that driver and core do not allow": {func() error {
			return d.AttachDevice(ctx, "<disk type='file' device='disk'><source file='"+strings.Repeat("x", maxXML)+"'/><target dev='vdb'/></disk>", affectConfig)
		}, verr.XMLError},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); verr.From(err) == nil || verr.From(err).Code != tt.want {
				t.Errorf("error %v, want code %d", err, tt.want)
			}
			delete(b.locks.held, "/images/transient")
			b.has(d, "vdb", false, false, "/images/guest", "/images/taken")
		})
	}
}

// TestOneOfBothIsNotEnough has the driver refuse the guest's part of a change.
func TestOneOfBothIsNotEnough(t *testing.T) {
	b := newBench(t)
	d := b.running()
	b.driver.when("attach", func() error { return verr.Status(verr.New(verr.ConfigUnsupported, "no")) })
	err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive|affectConfig)
	if verr.From(err) == nil || verr.From(err).Code != verr.ConfigUnsupported {
		t.Errorf("error is %v", err)
	}
	b.has(d, "vdb", false, false, "/images/guest")
}

func TestDriverDiesInAChangeOfADevice(t *testing.T) {
	for name, c := range map[string]struct {
		point   string
		happens bool
	}{
		"before a device is attached": {"attach", false},
		"after it":                    {"attach.done", true},
		"before a device is detached": {"detach", false},
		"after that":                  {"detach.done", true},
		"before a medium is changed":  {"update", false},
		"and after it":                {"update.done", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.running()
			both := uint32(affectLive | affectConfig)
			for _, dev := range []string{disk("vdc", "/images/c"), cdrom("/images/old.iso")} {
				if err := d.AttachDevice(t.Context(), dev, both); err != nil {
					t.Fatal(err)
				}
			}
			b.driver.when(c.point, func() error { return died(t) })
			var err error
			after, locked := "", []string{"/images/c", "/images/guest"}
			switch strings.TrimSuffix(c.point, ".done") {
			case "attach":
				err = d.AttachDevice(t.Context(), disk("vdb", "/images/b"), both)
				if after = "/images/b"; c.happens {
					locked = []string{"/images/b", "/images/c", "/images/guest"}
				}
			case "detach":
				err = d.DetachDevice(t.Context(), disk("vdc", ""), both)
				if after = "/images/c"; c.happens {
					locked = []string{"/images/guest"}
				}
			case "update":
				err = d.UpdateDevice(t.Context(), cdrom("/images/new.iso"), both|deviceForce)
				after = "/images/new.iso"
			}
			if (err == nil) != c.happens {
				t.Errorf("error is %v", err)
			}
			has := c.happens != strings.HasPrefix(c.point, "detach")
			b.has(d, after, has, has, locked...)
		})
	}
}

// TestCoreDiesInAChangeOfADevice kills the core while the driver is at work, so that nobody gets the answer.
func TestCoreDiesInAChangeOfADevice(t *testing.T) {
	for point, c := range map[string]struct {
		has    bool
		locked []string
		told   []string
	}{
		"attach":      {false, []string{"/images/guest"}, []string{}},
		"attach.done": {true, []string{"/images/b", "/images/guest"}, []string{"+new-disk"}},
		"detach":      {true, []string{"/images/b", "/images/guest"}, []string{}},
		"detach.done": {false, []string{"/images/guest"}, []string{"-new-disk"}},
	} {
		t.Run(point, func(t *testing.T) {
			b := newBench(t)
			d := b.running()
			change := d.AttachDevice
			if strings.HasPrefix(point, "detach") {
				if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
					t.Fatal(err)
				}
				change = d.DetachDevice
			}
			reached, hold, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			b.driver.pass(func(p string) error {
				if p == point {
					close(reached)
					<-hold
					return died(t)
				}
				return nil
			})
			go func() { defer close(ended); _ = change(t.Context(), disk("vdb", "/images/b"), affectLive) }()
			<-reached
			b.conn.Close() // nothing of the old core acts from here on
			b.cat.Close()
			b.driver.pass(nil)
			close(hold)
			b.server.Stop()
			<-ended
			b.up()
			sub := b.bus.Subscribe()
			defer sub.Close()
			if err := b.Recover(t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
				t.Fatal(err)
			}
			again, err := b.ByName("guest")
			if err != nil {
				t.Fatal(err)
			}
			b.has(again, "/images/b", c.has, false, c.locked...)
			if diff := cmp.Diff(c.told, heard(t, sub, len(c.told))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGuestThatTakesItsTimeKeepsTheLock(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("the core restarts meanwhile: %v", restart), func(t *testing.T) {
			b := newBench(t)
			d := b.running()
			if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
				t.Fatal(err)
			}
			before, _ := d.XML(0)
			b.driver.shy = true
			if err := d.DetachDeviceByAlias(t.Context(), "new-disk", affectLive); err != nil {
				t.Fatal(err)
			}
			b.has(d, "/images/b", true, false, "/images/b", "/images/guest")
			if restart {
				b.restart()
				d, _ = b.ByName("guest")
			}
			w := b.Watcher()
			stream, _, err := w.Open(t.Context(), pb.NewDriverServiceClient(b.conn))
			if err != nil {
				t.Fatal(err)
			}
			go w.Follow(stream)
			sub := b.bus.Subscribe()
			defer sub.Close()
			refused := &pb.Event{Event: &pb.Event_DeviceRemovalFailed{DeviceRemovalFailed: &pb.DeviceRemovalFailedEvent{Alias: "new-disk"}}}
			removed := &pb.Event{Event: &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: "new-disk"}}}
			g := d.state.Load().guest("default")
			b.driver.events <- &pb.WatchEvent{Seq: 1, Guest: g, Change: &pb.Change{Events: []*pb.Event{refused}}}
			if diff := cmp.Diff([]string{"!new-disk"}, heard(t, sub, 1)); diff != "" {
				t.Error(diff)
			}
			b.has(d, "/images/b", true, false, "/images/b", "/images/guest")
			without := strings.NewReplacer("/images/b", "/images/guest", "new-disk", "old-disk").Replace(before) // another device has the first one's image
			b.driver.setText(g.Uuid, without)
			b.driver.events <- &pb.WatchEvent{Seq: 2, Guest: g, Change: &pb.Change{Events: []*pb.Event{removed}}, LiveXml: without}
			if diff := cmp.Diff([]string{"-new-disk", "+old-disk"}, heard(t, sub, 2)); diff != "" {
				t.Error(diff)
			}
			b.has(d, "/images/b", false, false, "/images/guest")
		})
	}
}

// TestEventThatWasOvertaken tells of a device that has gone after the answer to a later call has arrived.
func TestEventThatWasOvertaken(t *testing.T) {
	b := newBench(t)
	d := b.running()
	w := b.Watcher()
	stream, _, err := w.Open(t.Context(), pb.NewDriverServiceClient(b.conn))
	if err != nil {
		t.Fatal(err)
	}
	go w.Follow(stream)
	old, _ := d.XML(0)
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
		t.Fatal(err)
	}
	sub := b.bus.Subscribe()
	defer sub.Close()
	gone := &pb.Event{Event: &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: "another"}}}
	other := &pb.Event{Event: &pb.Event_DeviceRemovalFailed{DeviceRemovalFailed: &pb.DeviceRemovalFailedEvent{Alias: "third"}}}
	b.driver.events <- &pb.WatchEvent{
		Seq: 1, Guest: d.state.Load().guest("default"), Change: &pb.Change{Events: []*pb.Event{gone, other}}, LiveXml: old,
	}
	if diff := cmp.Diff([]string{"!third"}, heard(t, sub, 1)); diff != "" {
		t.Error(diff)
	}
	b.has(d, "/images/b", true, false, "/images/b", "/images/guest")
}

// TestLockDaemonThatComesBackBeforeTheDriverFreesNothing has a core that was killed in the middle of an attach: what it has on disk is older than
// what the guest has.
func TestLockDaemonThatComesBackBeforeTheDriverFreesNothing(t *testing.T) {
	b := newBench(t)
	d := b.running()
	reached, hold, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	b.driver.pass(func(point string) error {
		if point == "attach.done" {
			close(reached)
			<-hold
		}
		return nil
	})
	go func() { defer close(ended); _ = d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive) }()
	<-reached
	b.conn.Close()
	b.cat.Close()
	b.driver.pass(nil)
	close(hold)
	b.server.Stop()
	<-ended
	b.up()
	b.Reaffirm(t.Context())
	if diff := cmp.Diff([]string{"/images/b", "/images/guest"}, b.locks.locked()); diff != "" {
		t.Errorf("locks before the driver was asked: %s", diff)
	}
	if err := b.Recover(t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
		t.Fatal(err)
	}
	again, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	b.has(again, "/images/b", true, false, "/images/b", "/images/guest")
}

func TestLockThatCannotBeFreedIsFreedLater(t *testing.T) {
	b := newBench(t)
	d := b.running()
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
		t.Fatal(err)
	}
	b.locks.stay(verr.New(verr.OperationTimeout, "lock daemon is away"))
	if err := d.DetachDevice(t.Context(), disk("vdb", ""), affectLive); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/images/b", "/images/guest"}, b.locks.locked()); diff != "" {
		t.Fatal(diff)
	}
	b.restart() // what is owed is on disk
	b.locks.stay(nil)
	b.Reaffirm(t.Context())
	d, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	b.has(d, "/images/b", false, false, "/images/guest")
}

func TestLockThatIsNotHadKeepsTheDeviceOut(t *testing.T) {
	b := newBench(t)
	d := b.running()
	b.driver.when("attach", func() error { return errors.New("the driver was asked") })
	b.locks.stay(verr.New(verr.OperationTimeout, "lock daemon is away"))
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("error is %v", err)
	}
	b.locks.stay(nil)
	b.Reaffirm(t.Context())
	b.has(d, "vdb", false, false, "/images/guest")
}

func TestTwoDevicesOfOneImageShareItsLock(t *testing.T) {
	b := newBench(t)
	d := b.running()
	for _, target := range []string{"vdb", "vdc"} {
		if err := d.AttachDevice(t.Context(), disk(target, "/images/b"), affectLive); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DetachDevice(t.Context(), disk("vdb", ""), affectLive); err != nil {
		t.Fatal(err)
	}
	b.has(d, "vdc", true, false, "/images/b", "/images/guest")
	if err := d.DetachDevice(t.Context(), disk("vdc", ""), affectLive); err != nil {
		t.Fatal(err)
	}
	b.has(d, "vdc", false, false, "/images/guest")
}

func TestDriverThatIsRestartedBeforeADeviceIsAttachedIsHandedTheLockAgain(t *testing.T) {
	b := newBench(t)
	d := b.running()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	b.locks.file = file
	b.driver.pass(func(string) error {
		b.driver.pass(nil)
		b.incarnation.Add(1) // it took the descriptor and died
		return verr.Status(verr.New(verr.OperationFailed, "descriptor did not arrive"))
	})
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
		t.Fatal(err)
	}
	if n := b.files.n.Load(); n != 2 {
		t.Errorf("%d descriptors were sent, want one to each process", n)
	}
	b.has(d, "/images/b", true, false, "/images/b", "/images/guest")
}

func TestMediumIsChanged(t *testing.T) {
	b := newBench(t)
	d := b.running()
	both := uint32(affectLive | affectConfig)
	if err := d.AttachDevice(t.Context(), cdrom("/images/a.iso"), both); err != nil {
		t.Fatal(err)
	}
	sub := b.bus.Subscribe()
	defer sub.Close()
	if err := d.UpdateDevice(t.Context(), cdrom("/images/b.iso"), both|deviceForce); err != nil {
		t.Fatal(err)
	}
	b.has(d, "/images/b.iso", true, true, "/images/guest") // nobody writes to it, so it is not locked
	// Attaching a drive that is there is an update, too.
	if err := d.AttachDevice(t.Context(), cdrom(""), affectLive); err != nil {
		t.Fatal(err)
	}
	b.has(d, "/images/b.iso", false, true, "/images/guest")
	if diff := cmp.Diff([]string{"~drive", "~drive"}, heard(t, sub, 2)); diff != "" {
		t.Error(diff)
	}
	// A floppy disk is written to.
	floppy := func(path string) string {
		return "<disk type='file' device='floppy'><source file='" + path + "'/><target dev='fda' bus='fdc'/></disk>"
	}
	if err := d.AttachDevice(t.Context(), floppy("/images/a.img"), affectLive); err != nil {
		t.Fatal(err)
	}
	if err := d.UpdateDevice(t.Context(), floppy("/images/b.img"), affectLive); err != nil {
		t.Fatal(err)
	}
	b.has(d, "/images/a.img", false, false, "/images/b.img", "/images/guest")
}

func TestGuestWithoutAProcessKeepsDescriptorsOfItsLocks(t *testing.T) {
	b := newBench(t)
	null := func() *os.File {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	b.locks.file = null()
	d := b.running()
	b.locks.file = null()
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
		t.Fatal(err)
	}
	if n, sent := len(d.leases), b.files.n.Load(); n != 2 || sent != 2 {
		t.Errorf("%d descriptors are kept, %d were sent", n, sent)
	}
	if err := d.DetachDevice(t.Context(), disk("vdb", ""), affectLive); err != nil {
		t.Fatal(err)
	}
	if n := len(d.leases); n != 1 {
		t.Errorf("%d descriptors are kept", n)
	}
	if _, err := b.locks.file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("descriptor of a lock that was freed is open: %v", err)
	}
}

func TestWhatIsTheCoresOwnStaysInTheLiveDefinition(t *testing.T) {
	b := newBench(t)
	d, err := b.Define(t.Context(), guestThat("guest", "poweroff"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	title := "A title"
	if err := d.SetMetadata(t.Context(), 1, &title, "", "", affectLive); err != nil {
		t.Fatal(err)
	}
	b.driver.texts = map[string]string{d.uuid.String(): guestXML("guest")} // it never heard of either
	if err := d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive); err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{"<title>A title</title>", "<on_lockfailure>poweroff</on_lockfailure>"} {
		b.has(d, own, true, own != "<title>A title</title>", "/images/b", "/images/guest")
	}
}

func TestCardWithoutAnAddressHasTheSameInBoth(t *testing.T) {
	b := newBench(t)
	d := b.running()
	if err := d.AttachDevice(t.Context(), "<interface type='user'/>", affectLive|affectConfig); err != nil {
		t.Fatal(err)
	}
	xml, err := d.XML(0)
	at := strings.Index(xml, "<mac address='52:54:00:")
	if err != nil || at < 0 {
		t.Fatalf("%v: %s", err, xml)
	}
	b.has(d, xml[at:at+len("<mac address='52:54:00:00:00:00'/>")], true, true, "/images/guest")
}

// TestDestroyBreaksIntoAChangeOfADevice has a driver hang in it.
func TestDestroyBreaksIntoAChangeOfADevice(t *testing.T) {
	b := newBench(t)
	d := b.running()
	reached, hold := make(chan struct{}), make(chan struct{})
	defer close(hold)
	b.driver.pass(func(point string) error {
		if point == "attach" {
			close(reached)
			<-hold
		}
		return nil
	})
	changed := make(chan error, 1)
	go func() { changed <- d.AttachDevice(t.Context(), disk("vdb", "/images/b"), affectLive) }()
	<-reached
	begun := time.Now()
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-changed; err == nil {
		t.Error("the change that was broken off has succeeded")
	}
	if b.locks.count() != 0 || d.View().Active() {
		t.Errorf("%d locks, %+v, after %v", b.locks.count(), d.View(), time.Since(begun))
	}
}
