// Package guest takes care of one living guest each: it follows QEMU's events, tells what they mean in libvirt's terms, changes the
// guest's state when asked, and ends it.
//
// One goroutine owns a guest: its machine, which maps events to libvirt's states, reasons and events in libvirt's order, is touched
// by nobody else. Calls talk to QEMU from their own goroutine, and leave word with the owner which event they wait for: that
// event's change is their answer, every other change goes to Config.Changed. Config.Ended is the last that is heard of a guest.
//
// A guest outlives its Guest. Close lets go of QEMU and leaves it alone, Stop ends it. A QEMU that is stuck costs a call its
// deadline and nobody else anything; Stop does not need QEMU's help. A monitor that breaks is connected again.
//
// Methods are safe concurrently; the core sends one change at a time, and Stop beside it.
package guest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Waits that no caller bounds.
const (
	// endGrace is how long a guest's QEMU has to end after the guest has.
	endGrace = 10 * time.Second
	// lastEvents is how long the events of a QEMU that is gone may take to be read.
	lastEvents = 500 * time.Millisecond
	// restartTime bounds a reset that follows a power-down, and asking for the state.
	restartTime = 10 * time.Second
	// eventGrace is how long the event of a command may stay out after its reply before the state is asked for.
	eventGrace = 500 * time.Millisecond
	// redialPause is the pause before a broken monitor is connected again, and bounds each try.
	redialPause = time.Second
)

// errNotRunning is what calls get for a guest that has ended.
var errNotRunning = verr.New(verr.OperationInvalid, "domain is not running")

// Config is what a Guest needs.
type Config struct {
	// Process is QEMU; the Guest owns it.
	Process *process.Process
	// Monitor is connected to it, and the Guest owns it; nil if QEMU does not answer at present.
	Monitor *qmp.Client
	// Dial connects a monitor again.
	Dial func(context.Context) (*qmp.Client, error)
	// Facts are those of the live definition.
	Facts Facts
	// Log is the guest's.
	Log hclog.Logger
	// Changed is told what happens by itself, in order, from the owner's goroutine. It must not block.
	Changed func(*pb.Change)
	// Devices is told what QEMU says about devices by itself, from the owner's goroutine. It must not block; nil means that nobody cares.
	Devices func(*Guest, DeviceNews)
	// Remember is told each new state, for Recall after a restart. It must not block.
	Remember func(Memory)
	// Ended is told once that QEMU is gone, from the owner's goroutine after the last Changed. The change is nil if a call to Stop
	// tells it. Everything of the guest may be removed then.
	Ended func(*pb.Change)
}

// Memory is what a restarted driver has to know of the state that was told last.
type Memory struct {
	Condition condition `json:"condition"`
	Panicked  bool      `json:"panicked"`
}

// Guest is one living guest.
type Guest struct {
	cfg      Config
	inbox    chan func()
	quit     chan struct{}
	finished chan struct{}
	wg       sync.WaitGroup
	closing  sync.Once

	// monMu guards mon. Nothing waits while it is held.
	monMu sync.Mutex
	mon   *qmp.Client

	// What follows belongs to the owner's goroutine; final may be read after finished is closed.
	machine *machine
	wish    *wish
	told    []*pb.Event
	kill    *time.Timer
	redial  chan *qmp.Client
	final   *pb.Change
}

// wish is a call that waits for an event.
type wish struct {
	event string
	got   chan *pb.Change
}

// New takes charge of a QEMU that was just launched and waits at -S.
func New(cfg Config) *Guest {
	return take(cfg, newMachine(cfg.Facts, condition{pb.State_STATE_PAUSED, pausedStartingUp}))
}

func take(cfg Config, m *machine) *Guest {
	g := &Guest{
		cfg: cfg, mon: cfg.Monitor, machine: m, inbox: make(chan func()), quit: make(chan struct{}),
		finished: make(chan struct{}), redial: make(chan *qmp.Client), kill: time.NewTimer(endGrace),
	}
	g.kill.Stop()
	g.wg.Add(1)
	go func() { defer g.wg.Done(); g.own() }()
	return g
}

// own is the owner's loop.
func (g *Guest) own() {
	defer close(g.finished)
	events := g.firstEvents()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				events = nil
				g.reconnect()
				continue
			}
			g.follow(ev)
		case mon := <-g.redial:
			g.replace(mon)
			events = mon.Events()
			g.resync()
		case do := <-g.inbox:
			do()
		case <-g.kill.C:
			g.signal(unix.SIGKILL)
		case <-g.cfg.Process.Done():
			g.drain(events)
			g.end()
			return
		case <-g.quit:
			return
		}
	}
}

func (g *Guest) firstEvents() <-chan qmp.Event {
	if mon := g.monitor(); mon != nil {
		return mon.Events()
	}
	g.reconnect()
	return nil
}

// follow takes in one event and does what it calls for.
func (g *Guest) follow(ev qmp.Event) {
	if ev.Lost > 0 {
		g.cfg.Log.Warn("events of guest lost", "count", ev.Lost)
		g.resync()
	}
	g.followDevice(ev)
	change, next, err := g.machine.handle(ev)
	if err != nil {
		g.cfg.Log.Warn("event of guest not understood", "event", ev.Name, "error", err)
		return
	}
	if w := g.wish; w != nil && w.event == ev.Name && change != nil {
		g.wish = nil
		g.remember(change)
		w.got <- change
	} else {
		g.tell(change)
	}
	g.do(next)
}

// tell hands on a change that nobody asked for; while a call ends the guest, it is kept for the call's answer.
func (g *Guest) tell(change *pb.Change) {
	if change == nil {
		return
	}
	g.remember(change)
	if g.machine.stopping {
		g.told = append(g.told, change.GetEvents()...)
		return
	}
	g.cfg.Changed(change)
}

func (g *Guest) remember(change *pb.Change) {
	if change.GetState() != pb.State_STATE_UNSPECIFIED {
		g.cfg.Remember(Memory{Condition: g.machine.now, Panicked: g.machine.panicked})
	}
}

func (g *Guest) do(next step) {
	switch next {
	case stepEnd:
		g.signal(unix.SIGTERM)
		g.kill.Reset(endGrace)
	case stepRestart:
		g.background(func(ctx context.Context) {
			if err := g.Query(ctx, &qmp.Command{Name: "system_reset"}, &qmp.Command{Name: "cont"}); err != nil {
				g.cfg.Log.Error("guest not restarted", "error", err)
				g.signal(unix.SIGTERM)
			}
		})
	case stepNone:
	}
}

// drain takes in what a QEMU that is gone has said before.
func (g *Guest) drain(events <-chan qmp.Event) {
	late := time.NewTimer(lastEvents)
	defer late.Stop()
	for events != nil {
		select {
		case ev, ok := <-events:
			if !ok {
				return
			}
			g.follow(ev)
		case <-late.C:
			return
		}
	}
}

// end tells the end of QEMU, to the caller of Stop or else to everybody.
func (g *Guest) end() {
	g.kill.Stop()
	change := g.machine.exited()
	if g.machine.stopping {
		change.Events = append(g.told, change.GetEvents()...)
		g.final = change
		change = nil
	}
	g.release()
	g.cfg.Ended(change)
}

func (g *Guest) release() {
	g.replace(nil)
	g.cfg.Process.Close()
}

func (g *Guest) signal(sig unix.Signal) {
	if err := g.cfg.Process.Signal(sig); err != nil && !errors.Is(err, process.ErrGone) {
		g.cfg.Log.Error("guest not signalled", "signal", unix.SignalName(sig), "error", err)
	}
}

// with runs a function in the owner's goroutine and returns its error.
func (g *Guest) with(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case g.inbox <- func() { result <- f() }:
		return <-result
	case <-g.finished:
		return errNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close lets go of the guest, which lives on, and waits for the goroutines.
func (g *Guest) Close() {
	g.closing.Do(func() { close(g.quit) })
	<-g.finished
	g.release()
	g.wg.Wait()
}

// Process returns QEMU's identity.
func (g *Guest) Process() process.ID { return g.cfg.Process.ID() }

// Finished is closed when the guest has ended or was let go of.
func (g *Guest) Finished() <-chan struct{} { return g.finished }
