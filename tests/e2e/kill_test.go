package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
)

// siege is a host whose daemons are killed while clients define, start and destroy domains on it.
type siege struct {
	t    *testing.T
	host *rig.Host
	uri  string
	// definition makes the XML of a domain with a writable disk.
	definition func(name, image string) string
	random     *rand.Rand

	keepers []string
	probes  []*rig.Probe
	workers []*worker
	stop    chan struct{}
	wg      sync.WaitGroup
}

// kinds of daemon that can be killed alone.
var killable = []rig.Kind{rig.Plugin, rig.Lockd, rig.Core}

// TestKillsWithTheTestDriver kills single daemons 200 times. A pretended guest has no process that could hold its lock, so never all at
// once.
func TestKillsWithTheTestDriver(t *testing.T) {
	s := newSiege(t, testURI, func(name, image string) string { return testDomain(name, disk(image), "") })
	s.begin(2, 8)
	for i := range 200 {
		s.strike(i, killable[s.random.IntN(len(killable))])
	}
	s.judge()
}

// TestKillsWithQEMU kills daemons 20 times, now and then all three at once.
func TestKillsWithQEMU(t *testing.T) {
	need(t, "qemu-system-x86_64")
	s := newSiege(t, qemuURI, func(name, image string) string { return qemuDomain(name, disk(image)) })
	s.begin(2, 3)
	for i := range 20 {
		if i%4 == 3 {
			s.strike(i, killable...)
			continue
		}
		s.strike(i, killable[s.random.IntN(len(killable))])
	}
	s.judge()
}

// newSiege starts the host.
func newSiege(t *testing.T, uri string, definition func(name, image string) string) *siege {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	return &siege{
		t: t, host: startHost(t), uri: uri, definition: definition, stop: make(chan struct{}),
		random: rand.New(rand.NewPCG(seed, 0)),
	}
}

// begin starts guests that nobody touches, with a probe at the lock of each, and workers that never rest.
func (s *siege) begin(keepers, workers int) {
	s.t.Helper()
	conn, err := s.host.Dial(s.uri)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	for i := range keepers {
		name := fmt.Sprintf("keeper-%d", i)
		dom, err := conn.DomainDefineXML(s.definition(name, s.image(name)))
		if err != nil {
			s.t.Fatal(err)
		}
		if err := conn.DomainCreate(dom); err != nil {
			s.t.Fatal(err)
		}
		s.keepers = append(s.keepers, name)
	}
	for _, lock := range s.locks() {
		probe, err := rig.StartProbe(s.t.Context(), lock.path)
		if err != nil {
			s.t.Fatal(err)
		}
		s.probes = append(s.probes, probe)
	}
	if len(s.probes) != keepers {
		s.t.Fatalf("%d locks are held, want one for each of %d guests", len(s.probes), keepers)
	}
	for i := range workers {
		w := newWorker(s, i)
		s.workers = append(s.workers, w)
		s.wg.Go(w.run)
	}
	s.t.Cleanup(s.rest)
}

// image makes an empty image for a domain.
func (s *siege) image(name string) string {
	path := filepath.Join(s.host.Dir, name+".img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)); err != nil {
		s.t.Error(err)
	}
	return path
}

// strike kills daemons at a random moment and waits until all are back.
func (s *siege) strike(round int, kinds ...rig.Kind) {
	s.t.Helper()
	time.Sleep(time.Duration(s.random.IntN(100)) * time.Millisecond)
	killed, err := s.host.Kill(kinds...)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	// A child of the core's that was not executed yet looks like a second one.
	if slices.ContainsFunc(killed, func(p rig.Process) bool { return p.Kind == rig.Core }) {
		if err := errors.Join(s.host.WaitCore(ctx), s.host.Start(ctx)); err != nil {
			s.t.Fatal(err)
		}
	}
	eventually(s.t, 30*time.Second, func() error {
		for _, p := range killed {
			if p.Alive() {
				return fmt.Errorf("round %d: %s (%d) is still there", round, p.Name, p.PID)
			}
		}
		return s.ready(ctx)
	})
	for i, probe := range s.probes {
		if free := probe.Free(); len(free) > 0 {
			s.t.Fatalf("round %d: after the end of %v the lock of %s was free at %v", round, kinds, s.keepers[i], free)
		}
	}
}

// ready says what of the host is not back yet.
func (s *siege) ready(ctx context.Context) error {
	status, err := s.host.Status(ctx)
	if err != nil {
		return err
	}
	if !status.GetLockdReady() {
		return errors.New("the lock daemon is not back")
	}
	scheme, _, _ := strings.Cut(s.uri, ":")
	for _, plugin := range status.GetPlugins() {
		if plugin.GetName() != scheme || plugin.GetState() == "ready" {
			continue
		}
		// Its pauses grow up to half a minute if every run is cut short.
		if plugin.GetState() == "backoff" {
			return errors.Join(errors.New("the plugin waits after a crash"), s.host.ResetPlugin(ctx, scheme))
		}
		return fmt.Errorf("the plugin is %s: %s", plugin.GetState(), plugin.GetDetail())
	}
	return nil
}

// rest lets the workers finish.
func (s *siege) rest() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.wg.Wait()
}

// heldLock is a lock and the guest that it belongs to.
type heldLock struct{ path, owner string }

// locks lists the locks that are held, without that of the test driver's own domain.
func (s *siege) locks() []heldLock {
	s.t.Helper()
	found, err := s.host.Locks(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	held := make([]heldLock, 0, len(found))
	for _, lock := range found {
		if lock.GetOwnerName() == "test" {
			continue
		}
		held = append(held, heldLock{lock.GetPath(), lock.GetOwnerName()})
	}
	return held
}
