package lockclient

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestLocksAreHadListedAndFreed(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 2))
	if err != nil {
		t.Fatal(err)
	}
	defer closeLeases(got)
	for i, l := range got {
		if l.State != Held || l.Resource != disks(dir, 2)[i] || l.File == nil || l.Owner.Name != "guest1" {
			t.Errorf("lease %d is %+v", i, l)
		}
	}
	_, err = c.Acquire(t.Context(), guest(2, 1), disks(dir, 1))
	if !verr.Is(err, verr.ResourceBusy) || verr.From(err).Domain != verr.FromLocking {
		t.Errorf("second guest: %v", err)
	}
	if all, err := c.List(t.Context()); err != nil || len(all) != 2 || all[0].Number >= all[1].Number {
		t.Errorf("list is %v, error %v", all, err)
	}
	if s, err := c.Status(t.Context()); err != nil || s.PID != os.Getpid() || s.Held != 2 || s.Owners != 1 || s.Clients != 1 {
		t.Errorf("status is %+v, error %v", s, err)
	}
	for _, want := range []int{2, 0} {
		if n, err := c.Release(t.Context(), guest(1, 1).UUID, 1); n != want || err != nil {
			t.Errorf("release ended %d leases, error %v, want %d", n, err, want)
		}
	}
}

func closeLeases(got []Lease) {
	for _, l := range got {
		l.File.Close()
	}
}

func TestMoreDisksThanOneFrameHasDescriptors(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for _, n := range []int{0, 1, lockproto.MaxFiles, lockproto.MaxFiles + 1, 3*lockproto.MaxFiles + 5} {
		got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, n))
		if err != nil || len(got) != n {
			t.Fatalf("%d disks: %d leases, error %v", n, len(got), err)
		}
		// Each descriptor must be that of its own lock.
		files := make([]*os.File, n)
		for i := range got {
			files[i] = got[i].File
			want, err := os.Stat(got[i].Resource.Path())
			have, err2 := files[i].Stat()
			if err != nil || err2 != nil || !os.SameFile(want, have) {
				t.Fatalf("descriptor %d of %d is another file's: %v %v", i, n, err, err2)
			}
		}
		if adopted, err := c.Adopt(t.Context(), guest(1, 1), disks(dir, n), files); err != nil || len(adopted) != n {
			t.Fatalf("adoption of %d: %d leases, error %v", n, len(adopted), err)
		}
		closeLeases(got)
		if _, err := c.Release(t.Context(), guest(1, 1).UUID, 1); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "descriptors are left behind", func() bool { return descriptors(t) == before })
}

func TestTooManyDisksAreRefused(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	if _, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, lockproto.MaxResources+1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want a refusal", err)
	}
}

func TestCallsSurviveTheDaemonsRestart(t *testing.T) {
	dir := t.TempDir()
	stop := serve(t, dir)
	c := client(t, dir)
	got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	closeLeases(got)
	for range 5 {
		stop()
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				if all, err := c.List(t.Context()); err != nil || len(all) != 1 {
					t.Errorf("list is %v, error %v", all, err)
				}
			})
		}
		stop = serve(t, dir)
		calls.Wait()
	}
}

func TestDaemonThatIsAwayCostsTheContextsTime(t *testing.T) {
	c := client(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want the deadline and what kept it", err)
	}
}

func TestDaemonThatNeverAnswersCostsTheContextsTime(t *testing.T) {
	dir := t.TempDir()
	connections := mute(t, dir)
	c := client(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := c.Acquire(ctx, guest(1, 1), disks(dir, 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v, want Canceled", err)
			}
		})
	}
	eventually(t, "nobody connects", func() bool { return connections() > 0 })
	cancel()
	calls.Wait()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.List(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want DeadlineExceeded", err)
	}
	// A call that was given up is no reason for another connection.
	if n := connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestCloseEndsCallsUnderWay(t *testing.T) {
	dir := t.TempDir()
	connections := mute(t, dir)
	c := client(t, dir)
	var calls sync.WaitGroup
	calls.Go(func() {
		if _, err := c.List(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("error is %v, want ErrClosed", err)
		}
	})
	eventually(t, "nobody connects", func() bool { return connections() > 0 })
	c.Close()
	calls.Wait()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close the error is %v, want ErrClosed", err)
	}
}

func TestAnswerAfterTheDeadlineLeavesNoDescriptor(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for i := range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Microsecond)
		if got, err := c.Acquire(ctx, guest(1, 1), disks(dir, 40)); err == nil {
			closeLeases(got)
		}
		cancel()
		if _, err := c.Release(t.Context(), guest(1, 1).UUID, 1); err != nil {
			t.Fatal(err)
		}
	}
	// A late Acquire may have come after its release; the last release comes after all of them.
	eventually(t, "descriptors are left behind", func() bool {
		_, err := c.Release(t.Context(), guest(1, 1).UUID, 1)
		return err == nil && descriptors(t) == before
	})
}

func TestBatchesOfAdoption(t *testing.T) {
	f := os.Stdin
	for _, tc := range []struct {
		name  string
		files []*os.File
		total int
		want  []int
	}{
		{"nothing", nil, 0, nil},
		{"no files at all", nil, 3, []int{3}},
		{"files first, then none", []*os.File{f, f}, 3, []int{2, 1}},
		{"a hole", []*os.File{f, nil, f}, 3, []int{1, 1, 1}},
		{"more than a frame takes", nil, 70, []int{32, 32, 6}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := batches(make([]lockspace.Resource, tc.total), tc.files)
			if len(got) != len(tc.want) {
				t.Fatalf("%d batches, want %d", len(got), len(tc.want))
			}
			for i, b := range got {
				if len(b.resources) != tc.want[i] || (len(b.files) != 0 && len(b.files) != len(b.resources)) {
					t.Errorf("batch %d has %d resources and %d files, want %d", i, len(b.resources), len(b.files), tc.want[i])
				}
			}
		})
	}
}
