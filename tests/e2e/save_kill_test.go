package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// bootWait is how long a guest's system may take to come up on a busy machine.
const bootWait = 2 * time.Minute

// sleeper is a guest that is saved and started again while daemons are killed.
type sleeper struct {
	*siege
	name string
	// image is nil for a pretended guest; else it has counted to last.
	image *rig.Image
	last  int
	// saved is what became of it the last time.
	saved bool
	// outcomes counts what the rounds have come to.
	outcomes map[string]int
}

// TestKillsWhileAGuestIsSaved kills daemons at random moments of managed saves and of the starts from them, with a Linux guest that must
// never begin to count anew, nor count the same twice.
func TestKillsWhileAGuestIsSaved(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	image, err := rig.BuildImage("../..", t.TempDir())
	if errors.Is(err, rig.ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	siege := newSiege(t, qemuURI, func(name, image string) string { return qemuDomain(name, disk(image)) })
	s := &sleeper{siege: siege, name: "sleeper", image: image, outcomes: map[string]int{}}
	s.beginWith(linuxGuest(s.name, image))
	s.last = countsOn(t, image, 2, bootWait)
	for i := range 12 {
		kinds := []rig.Kind{killable[s.random.IntN(len(killable))]}
		if i%3 == 2 {
			kinds = killable
		}
		s.round(i, 600*time.Millisecond, kinds...)
	}
	if s.saved {
		virsh(t, s.host, s.uri, "start", s.name)
	}
	countsOn(t, image, s.last, bootWait)
	t.Logf("rounds have come to %v", s.outcomes)
}

// TestKillsWhileAPretendedGuestIsSaved does the same more often.
func TestKillsWhileAPretendedGuestIsSaved(t *testing.T) {
	need(t, "virsh")
	siege := newSiege(t, testURI, func(name, image string) string { return testDomain(name, disk(image), "") })
	s := &sleeper{siege: siege, name: "sleeper", outcomes: map[string]int{}}
	slow := faults(`<lodge:fail point="save.write" action="delay(15)"/><lodge:fail point="save.done" action="delay(10)"/>
		<lodge:fail point="restore" action="delay(10)"/><lodge:fail point="restore.done" action="delay(10)"/>`)
	s.beginWith(testDomain(s.name, disk(s.siege.image(s.name)), slow))
	for i := range 40 {
		s.round(i, 120*time.Millisecond, killable[s.random.IntN(len(killable))])
	}
	t.Logf("rounds have come to %v", s.outcomes)
}

// beginWith starts the guest, and one that nobody touches: it must not notice anything.
func (s *sleeper) beginWith(xml string) {
	s.t.Helper()
	s.begin(1, 0)
	virsh(s.t, s.host, s.uri, "define", write(s.t, s.name+".xml", xml))
	virsh(s.t, s.host, s.uri, "start", s.name)
}

// round saves the guest, or starts it from its image, and kills daemons in the middle.
func (s *sleeper) round(i int, span time.Duration, kinds ...rig.Kind) {
	s.t.Helper()
	verb := "managedsave"
	if s.saved {
		verb = "start"
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.host.Virsh(s.t.Context(), s.uri, verb, s.name)
		done <- err
	}()
	time.Sleep(time.Duration(s.random.Int64N(int64(span))))
	s.strike(i, kinds...)
	said := <-done
	eventually(s.t, settled, func() error { return s.look(verb, said) })
	outcome := "given up"
	if s.saved == (verb == "managedsave") {
		outcome = "done"
	}
	if said != nil {
		outcome += ", not answered"
	}
	s.outcomes[verb+" "+outcome]++
	if s.image != nil && !s.saved {
		s.last = countsOn(s.t, s.image, s.last, bootWait)
	}
}

// look says what is not as it must be: the guest runs as before and has no image, or it has a complete one and does not run; and if its call
// was answered, it is what the answer said.
func (s *sleeper) look(verb string, said error) error {
	conn, err := s.host.Dial(s.uri)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	dom, err := conn.DomainLookupByName(s.name)
	if err != nil {
		return err
	}
	state, reason, err := conn.DomainGetState(dom, 0)
	if err != nil {
		return err
	}
	image, err := conn.DomainHasManagedSaveImage(dom, 0)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.host.Dir, "state", "save", "*", "*", "*"))
	if err != nil {
		return err
	}
	hidden, err := filepath.Glob(filepath.Join(s.host.Dir, "state", "save", "*", "*", ".*"))
	if err != nil {
		return err
	}
	s.saved = image == 1
	running := libvirt.DomainState(state) == libvirt.DomainRunning
	switch {
	case running == s.saved || !running && libvirt.DomainState(state) != libvirt.DomainShutoff:
		return fmt.Errorf("the guest is in state %d because of %d, and has %d images", state, reason, image)
	case s.saved && len(files) != 1 || !s.saved && len(files) != 0 || len(hidden) != 0:
		return fmt.Errorf("the guest has %d images, and there are files %v %v", image, files, hidden)
	case said == nil && s.saved != (verb == "managedsave"):
		return fmt.Errorf("%s was answered, and the guest is in state %d", verb, state)
	}
	active := slices.Clone(s.keepers)
	if running {
		active = append(active, s.name)
	}
	return s.verdictOfLocks(active)
}

// TestSaveOfAGuestWhoseHostIsLost ends the core for good in the middle of a save: the plugin lets the guest go on by itself.
func TestSaveOfAGuestWhoseHostIsLost(t *testing.T) {
	need(t, "virsh")
	for name, end := range map[string]func(*rig.Host) error{
		"it is killed":  func(h *rig.Host) error { _, err := h.Kill(rig.Core); return err },
		"it is stopped": func(h *rig.Host) error { return h.Stop(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t)
			fault := faults(`<lodge:fail point="save.write" action="1*delay(20000)->off"/>`)
			virsh(t, h, testURI, "define", write(t, "d.xml", testDomain("slow", "", fault)))
			virsh(t, h, testURI, "start", "slow")
			go func() { _, _ = h.Virsh(context.WithoutCancel(t.Context()), testURI, "managedsave", "slow") }()
			eventually(t, answerWait, func() error {
				out, err := h.Virsh(t.Context(), testURI, "domstate", "slow")
				if err == nil && !strings.HasPrefix(out, "paused") {
					err = fmt.Errorf("the guest is %s", out)
				}
				return err
			})
			if err := end(h); err != nil {
				t.Fatal(err)
			}
			eventually(t, answerWait, func() error { return runsAgain(h, "slow") })
		})
	}
}

// runsAgain looks at the record of a pretended guest: state 1 for reason 7 is running because its save was cancelled.
func runsAgain(h *rig.Host, name string) error {
	records, err := filepath.Glob(filepath.Join(h.Dir, "run", "guests", "test", "*.guest"))
	if err != nil {
		return err
	}
	for _, path := range records {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), `"name":"`+name+`"`) {
			if !strings.Contains(string(text), `"state":1,"reason":7,`) {
				return fmt.Errorf("the guest's record is %s", text)
			}
			return nil
		}
	}
	return fmt.Errorf("the guest has no record among %v", records)
}
