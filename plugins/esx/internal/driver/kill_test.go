package driver_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
)

// kills is how often the plugin is killed.
const kills = 15

// TestAKilledPluginTellsTheTruthWhenItIsBack kills the plugin's process at random moments under mixed changes. What the next process tells
// up to its first Synced must be what the host has.
func TestAKilledPluginTellsTheTruthWhenItIsBack(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{Machines: 6})
	text := config(t, map[string]any{"lab": table(s, "esx")}, "")
	r := &rig{t: t, host: faketest.Launch(t, text, process)}
	r.host.SetSecret(secretID, []byte(vimtest.Password))
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range kills {
		r.conn = r.host.Conn
		p := r.followName("esx:///lab")
		p.synced()
		compare(t, s, p, round)
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer close(ended)
			disturb(ctx, r, p.connection, maps.Clone(p.guests), rand.New(rand.NewPCG(seed, uint64(round))))
		}()
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		r.host.Kill()
		cancel()
		<-ended
		r.host.Relaunch(t, text, process)
	}
}

// disturb makes changes until the plugin is gone.
func disturb(ctx context.Context, r *rig, connection string, guests map[string]*pb.GuestObject, random *rand.Rand) {
	ids := slices.Sorted(maps.Keys(guests))
	service, tuning := pb.NewGuestServiceClient(r.conn), pb.NewTuningServiceClient(r.conn)
	for n := 0; ctx.Err() == nil; n++ {
		g := &hv.Guest{Connection: connection, Uuid: ids[random.IntN(len(ids))], Name: "guest"}
		switch random.IntN(6) {
		case 0:
			_, _ = service.Start(ctx, &pb.StartRequest{Guest: g}) // whether it succeeds is not asked here
		case 1:
			_, _ = service.Stop(ctx, &pb.StopRequest{Guest: g})
		case 2:
			_, _ = tuning.SetVCPUs(ctx, &pb.SetVCPUsRequest{Guest: g, Vcpus: uint32(1 + random.IntN(8))})
		case 3:
			_, _ = pb.NewSnapshotServiceClient(r.conn).CreateSnapshot(ctx, &pb.CreateSnapshotRequest{
				Guest: g, Name: fmt.Sprint("s", n, random.Uint32()),
			})
		case 4:
			_, _ = service.Define(ctx, &pb.DefineRequest{Connection: connection, Xml: definition(fmt.Sprint("made", random.Uint32()), "", "")})
		case 5:
			_, _ = service.SetAutostart(ctx, &pb.SetAutostartRequest{Guest: g, Autostart: n%2 == 0})
		}
	}
}

// compare takes messages until the picture is what the host has: a task that was under way may end after the picture was read.
func compare(t *testing.T, s *vimtest.Server, p *picture, round int) {
	t.Helper()
	deadline := time.Now().Add(slack)
	for {
		truth, told := s.Summary(), summary(p)
		if truth == told {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("round %d: the host has\n%s\ntold is\n%s", round, truth, told)
		}
		select {
		case m, ok := <-p.messages:
			if !ok {
				t.Fatal("the stream ended")
			}
			p.take(m)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// summary writes the picture as the simulator's Summary does.
func summary(p *picture) string {
	var lines []string
	for _, g := range p.guests {
		lines = append(lines, fmt.Sprintf("%s %s %v %d vCPUs %d KiB %d snapshots", g.GetName(), g.GetUuid(), g.GetState() != hv.State_STATE_SHUTOFF,
			g.GetVcpus(), g.GetMaxMemoryKib(), len(g.GetSnapshots())))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
