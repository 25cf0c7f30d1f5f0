package driver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/tests/fakelvm"
)

// change is one that a killed plugin must have made, or not: it is asked for, and asked is what is there then.
type change struct {
	what  string
	do    func() error
	asked []string
}

// TestAKilledPluginLeavesNothingHalfDone kills the plugin's process at random moments of everything that it does. Afterwards the disk is as
// before or as it was asked to be, and stays so.
func TestAKilledPluginLeavesNothingHalfDone(t *testing.T) {
	if !parted.Available() {
		t.Skip("parted is not installed")
	}
	b := &bench{T: t, device: fakelvm.Loop(t, filepath.Join(t.TempDir(), "disk"), 128*mib)}
	h := faketest.Launch(t, nil, process)
	b.conn = h.Conn
	b.pool = b.define("gpt")
	if err := errors.Join(b.build(0), b.start()); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("content ", mib/8)
	b.fill(b.must(1, 8*mib, "none"), content)
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	made := map[bool]int{}
	for n := range storagedriver.SlowRounds() {
		before := b.told()
		c := b.change(n, before)
		done := make(chan error, 1)
		go func() { done <- c.do() }()
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		h.Kill()
		err := <-done
		h.Relaunch(t, nil, process)
		b.conn = h.Conn
		if !b.active() {
			t.Fatalf("%s: the disk is not usable any more", c.what)
		}
		after := b.told()
		if !slices.Equal(after, c.asked) && (err == nil || !slices.Equal(after, before)) {
			t.Fatalf("%s: error %v, before %q, asked for %q, there is %q", c.what, err, before, c.asked, after)
		}
		made[slices.Equal(after, c.asked)]++
		if again := b.told(); !slices.Equal(again, after) {
			t.Fatalf("%s: changed later from %q to %q", c.what, after, again)
		}
		all, _ := b.refresh()
		for _, v := range all {
			if v.Capacity == 8*mib && !strings.HasPrefix(b.content(v), content) { // the first and its copies
				t.Fatalf("%s: %s has not the content that it should have", c.what, v.Name)
			}
		}
	}
	t.Logf("%d changes were made, %d were not", made[true], made[false])
}

// change picks the next one.
func (b *bench) change(n int, before []string) change {
	all, _ := b.refresh()
	last := all[len(all)-1]
	next := len(all) + 1
	at := last.Extents[0].End/mib + 1
	if last.Extents[0].End%mib == 0 {
		at--
	}
	entry := func(size int) string { return fmt.Sprintf("p%d none %d-%d", next, at*1024, at*1024+uint64(size)/1024) }
	switch {
	case next > 5 || n%4 == 2 && next > 2:
		return change{"remove", func() error { return b.remove(last) }, before[:len(before)-1]}
	case n%4 == 0:
		return change{"create", func() error { _, err := b.create(next, 2*mib, "none", nil); return err }, append(slices.Clone(before), entry(2*mib))}
	case n%4 == 1:
		return change{"copy", func() error { _, err := b.create(next, mib, "none", all[0]); return err }, append(slices.Clone(before), entry(8*mib))}
	}
	if last.Capacity == 8*mib {
		return change{"refresh", func() error { return b.quietRefresh() }, before}
	}
	return change{"wipe", func() error {
		s, err := pb.NewWipeServiceClient(b.conn).Wipe(context.Background(), &pb.WipeRequest{Pool: b.pool, Volume: last})
		if err != nil {
			return err
		}
		_, err = drain(s.Recv, nil)
		return err
	}, before}
}

// quietRefresh is a refresh that may fail.
func (b *bench) quietRefresh() error {
	s, err := pb.NewPoolServiceClient(b.conn).Refresh(context.Background(), &pb.RefreshRequest{Pool: b.pool})
	if err != nil {
		return err
	}
	_, err = drain(s.Recv, nil)
	return err
}

func (b *bench) fill(v *pb.Volume, content string) {
	b.Helper()
	f, err := os.OpenFile(v.Path, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) content(v *pb.Volume) string {
	b.Helper()
	text, err := os.ReadFile(v.Path)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}
