package driver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestAKilledPluginLeavesNothingHalfDone kills the plugin's process at random moments of everything that it does. Afterwards the group is as
// before or as it was asked to be, stays so, and has nothing hidden in it.
func TestAKilledPluginLeavesNothingHalfDone(t *testing.T) {
	b := &bench{T: t, LVM: fakelvm.Start(t, 200*mib, 100*mib)}
	h := faketest.Launch(t, b.config(), process)
	b.conn = h.Conn
	b.pool = b.define(b.definition(b.Devices...))
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	made := map[bool]int{}
	for n := range storagedriver.SlowRounds() {
		before := b.told()
		c := b.change(n, before)
		done := make(chan error, 1)
		go func() { done <- c.do() }()
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
		h.Kill()
		err := <-done
		h.Relaunch(t, b.config(), process)
		b.conn = h.Conn
		after := b.told()
		if !slices.Equal(after, c.asked) && (err == nil || !slices.Equal(after, before)) {
			t.Fatalf("%s: error %v, before %q, asked for %q, there is %q", c.what, err, before, c.asked, after)
		}
		made[slices.Equal(after, c.asked)]++
		if again := b.told(); !slices.Equal(again, after) {
			t.Fatalf("%s: changed later from %q to %q", c.what, after, again)
		}
		if slices.Equal(after, noGroup) {
			continue
		}
		if has := b.names(); len(has) != len(after) {
			t.Fatalf("%s: clients see %q, LVM has %q", c.what, after, has)
		}
	}
	t.Logf("%d changes were made, %d were not", made[true], made[false])
}

// noGroup is told where there is no group.
var noGroup = []string{"no group"}

// told lists the volumes with their sizes.
func (b *bench) told() []string {
	b.Helper()
	if !b.active() {
		if left := b.Do(b, "pvs", "--noheadings"); left != "" {
			b.Errorf("without a group there are physical volumes: %s", left)
		}
		return noGroup
	}
	all, _ := b.refresh()
	out := []string{}
	for _, v := range all {
		out = append(out, fmt.Sprint(v.Name, " ", v.Capacity/mib))
		if strings.HasPrefix(v.Name, "copy") && !b.copied(v) {
			b.Errorf("%s is not complete", v.Name)
		}
	}
	slices.Sort(out)
	return out
}

// content is what copies have.
const content = "the content of all copies"

func (b *bench) copied(v *pb.Volume) bool {
	text, err := os.ReadFile(v.Path)
	return err == nil && strings.HasPrefix(string(text), content)
}

// change picks the next one.
func (b *bench) change(n int, before []string) change {
	name, all := fmt.Sprint("v", n), map[string]*pb.Volume{}
	none := slices.Equal(before, noGroup)
	if !none {
		all, _ = b.refresh()
	}
	with := func(more string) []string {
		out := append(slices.Clone(before), more)
		slices.Sort(out)
		return out
	}
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(before), func(s string) bool { return strings.HasPrefix(s, name+" ") })
	}
	make := func(name string, from *pb.Volume) func() error {
		return func() error { _, err := b.create("<name>"+name+"</name><capacity>1</capacity>", from); return err }
	}
	switch {
	case none:
		return change{"build", func() error { return b.build(0) }, []string{}}
	case all["base"] == nil:
		return change{"create base", func() error {
			v, err := b.create(fmt.Sprintf("<name>base</name><capacity>%d</capacity>", 16*mib), nil)
			if err == nil {
				_ = os.WriteFile(v.Path, []byte(content), 0)
			}
			return err
		}, with("base 16")}
	case !b.copied(all["base"]):
		_ = os.WriteFile(all["base"].Path, []byte(content), 0)
		_ = os.Truncate(all["base"].Path, 16*mib)
	}
	for v := range all {
		if v != "base" && n%6 == 3 {
			return change{"remove", func() error { return b.remove(all[v]) }, without(v)}
		}
		if strings.HasPrefix(v, "v") && n%6 == 4 {
			asked := append(without(v), v+" 8")
			slices.Sort(asked)
			return change{"resize", func() error {
				_, err := pb.NewResizeServiceClient(b.conn).Resize(context.Background(), &pb.ResizeRequest{Pool: b.pool, Volume: all[v], Capacity: 8 * mib})
				return err
			}, asked}
		}
	}
	switch {
	case n%6 == 5 && len(all) > 3:
		return change{"delete", b.delete, noGroup}
	case n%2 == 0:
		return change{"create", make(name, nil), with(name + " 4")}
	}
	return change{"copy", make("copy"+name, all["base"]), with("copy" + name + " 16")}
}
