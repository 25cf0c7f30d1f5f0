package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// settled is how long a host may take after the last kill until nothing is in doubt.
const settled = 30 * time.Second

// judge ends the siege and compares what there is with what was acknowledged: no definition and no guest is lost, none runs twice, and
// every active guest has its lock and nobody else has one.
func (s *siege) judge() {
	s.t.Helper()
	s.rest()
	answered := 0
	for _, w := range s.workers {
		answered += w.answered
	}
	s.t.Logf("%d calls of the workers succeeded", answered)
	if answered == 0 {
		s.t.Error("no call of the workers succeeded: nothing was tested")
	}
	eventually(s.t, settled, s.verdict)
	for i, probe := range s.probes {
		looks, free, err := probe.Stop()
		if err != nil || looks == 0 || len(free) > 0 {
			s.t.Errorf("the lock of %s was looked at %d times (%v) and was free at %v", s.keepers[i], looks, err, free)
		}
	}
}

// verdict says what is not as it must be, at first while the host still makes up its mind.
func (s *siege) verdict() error {
	conn, err := s.host.Dial(s.uri)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	var active []string
	for _, name := range s.keepers {
		state, err := stateOf(conn, name)
		if err != nil || state != libvirt.DomainRunning {
			return fmt.Errorf("%s is in state %d, want running: %w", name, state, err)
		}
		active = append(active, name)
	}
	for _, w := range s.workers {
		for _, d := range w.domains {
			isActive, err := d.verdict(conn)
			if err != nil {
				return err
			}
			if isActive {
				active = append(active, d.name)
			}
		}
	}
	return s.verdictOfLocks(active)
}

// verdict compares one domain with what is believed of it, and says whether it is active.
func (d *estate) verdict(conn *libvirt.Libvirt) (active bool, err error) {
	state, err := stateOf(conn, d.name)
	switch {
	case libvirt.IsNotFound(err) && d.defined != yes && d.active != yes:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", d.name, err)
	case d.defined == no && d.active == no:
		return false, fmt.Errorf("%s was undefined, and is in state %d", d.name, state)
	case state != libvirt.DomainRunning && state != libvirt.DomainShutoff:
		return false, fmt.Errorf("%s is in state %d, which is no state to stay in", d.name, state)
	}
	active = state == libvirt.DomainRunning
	if d.active == yes && !active || d.active == no && active {
		return active, fmt.Errorf("%s is active: %v, which is not what was acknowledged", d.name, active)
	}
	return active, nil
}

// verdictOfLocks compares the locks, and for QEMU the processes, with the active guests.
func (s *siege) verdictOfLocks(active []string) error {
	owners := make([]string, 0, len(active))
	for _, lock := range s.locks() {
		owners = append(owners, lock.owner)
	}
	slices.Sort(active)
	slices.Sort(owners)
	if !slices.Equal(active, owners) {
		return fmt.Errorf("locks are held for %v, guests are active: %v", owners, active)
	}
	if s.uri != qemuURI {
		return nil
	}
	processes, err := s.host.Find(rig.Guest)
	if err != nil {
		return err
	}
	var running []string
	for _, p := range processes {
		running = append(running, guestOf(p))
	}
	slices.Sort(running)
	if !slices.Equal(active, running) {
		return fmt.Errorf("processes run for %v, guests are active: %v", running, active)
	}
	return nil
}

// guestOf reads the name of a QEMU process's guest from its command line.
func guestOf(p rig.Process) string {
	for _, arg := range p.Args {
		if rest, ok := strings.CutPrefix(arg, "guest="); ok {
			name, _, _ := strings.Cut(rest, ",")
			return name
		}
	}
	return strings.Join(p.Args, " ")
}

// stateOf looks a domain up and reads its state.
func stateOf(conn *libvirt.Libvirt, name string) (libvirt.DomainState, error) {
	dom, err := conn.DomainLookupByName(name)
	if err != nil {
		return 0, err
	}
	state, _, err := conn.DomainGetState(dom, 0)
	return libvirt.DomainState(state), err
}
