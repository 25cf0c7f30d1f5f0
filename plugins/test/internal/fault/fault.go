// Package fault reads from a guest's definition what shall go wrong with it, so that a test can break the driver at an exact
// point without touching the driver's process:
//
//	<metadata>
//	  <lodge:test xmlns:lodge='https://lodgevirt.org/xml/test/1.0'>
//	    <lodge:fail point='start' action='1*error(55:not today)->off'/>
//	    <lodge:fail point='suspend' action='delay(100)'/>
//	    <lodge:guest does='crash' after='200'/>
//	  </lodge:test>
//	</metadata>
//
// An action is a chain in the grammar of package sdk/failpoint. Most points have two names: with the bare one nothing was done yet,
// with ".done" all was done and only the answer is missing; "save.write" is passed when half of a guest is written. Points lists
// them. A guest acts (see Acts) a number of milliseconds after its start.
//
// A Book is safe concurrently. It counts the passes of a guest's points for as long as the guest's text stays the same, over any
// number of starts, until the process ends.
package fault

import (
	"encoding/xml"
	"slices"
	"strings"
	"sync"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Namespace of the element in <metadata>.
const Namespace = "https://lodgevirt.org/xml/test/1.0"

// Limits.
const (
	maxActs  = 16
	maxAfter = 24 * 60 * 60 * 1000 // milliseconds
	// maxSets bounds a Book; beyond it all counts begin again.
	maxSets = 4096
)

// Points are the names of the points that a guest passes.
var Points = []string{
	"validate", "start", "start.done", "stop", "stop.done", "recover", "inspect", "shutdown", "shutdown.done", "reboot",
	"reboot.done", "reset", "suspend", "suspend.done", "resume", "resume.done", "send-key", "inject-nmi", "console", "screenshot",
	"stats", "save", "save.write", "save.done", "abort-save", "restore", "restore.done", "attach", "attach.done", "detach", "detach.done",
	"update", "update.done", UnplugSlow, UnplugRefused,
}

// Points of a guest that is asked to give a device up, which does not fail the call as others do: an error at the first makes the guest take
// its time, one at the second makes it refuse.
const (
	UnplugSlow    = "unplug.slow"
	UnplugRefused = "unplug.refused"
)

// Kinds of acts.
const (
	Shutdown = "shutdown"
	Crash    = "crash"
	Reboot   = "reboot"
)

// Acts are what a guest can do by itself.
var Acts = []string{Shutdown, Crash, Reboot}

// Act is something that a guest does by itself.
type Act struct {
	// Does is one of Acts.
	Does string `xml:"does,attr" json:"does"`
	// After is the time since the start in milliseconds.
	After int `xml:"after,attr" json:"after"`
}

// Script is what shall go wrong with a guest.
type Script struct {
	text  string
	fails []fail
	// Acts in the order of the definition.
	Acts []Act
}

type fail struct {
	Point  string `xml:"point,attr"`
	Action string `xml:"action,attr"`
}

// Parse reads the script of a definition. A definition without one has an empty script. It fails with XMLError for a script that
// makes no sense.
func Parse(definition string) (Script, error) {
	if !strings.Contains(definition, Namespace) {
		return Script{}, nil
	}
	text, err := domxml.GetMetadata(definition, domxml.MetadataElement, Namespace)
	if verr.Is(err, verr.NoDomainMetadata) {
		return Script{}, nil
	}
	if err != nil {
		return Script{}, err
	}
	var element struct {
		Fails []fail `xml:"fail"`
		Acts  []Act  `xml:"guest"`
	}
	if err := xml.Unmarshal([]byte(text), &element); err != nil {
		return Script{}, verr.New(verr.XMLError, "read faults: %w", err)
	}
	s := Script{text: text, fails: element.Fails, Acts: element.Acts}
	return s, s.check()
}

func (s Script) check() error {
	if _, err := s.set(); err != nil {
		return err
	}
	if len(s.Acts) > maxActs {
		return verr.New(verr.XMLError, "guest does %d things by itself, at most %d are possible", len(s.Acts), maxActs)
	}
	for _, a := range s.Acts {
		if !slices.Contains(Acts, a.Does) {
			return verr.New(verr.XMLError, "guest cannot %q by itself, but %s", a.Does, strings.Join(Acts, ", "))
		}
		if a.After < 0 || a.After > maxAfter {
			return verr.New(verr.XMLError, "guest cannot %s after %d ms", a.Does, a.After)
		}
	}
	return nil
}

func (s Script) set() (*failpoint.Set, error) {
	set := &failpoint.Set{}
	for _, f := range s.fails {
		if !slices.Contains(Points, f.Point) {
			return nil, verr.New(verr.XMLError, "unknown point %q, there are %s", f.Point, strings.Join(Points, ", "))
		}
		if err := set.Set(f.Point, f.Action); err != nil {
			return nil, verr.New(verr.XMLError, "%w", err)
		}
	}
	return set, nil
}

// Book keeps the points of guests with their counts.
type Book struct {
	mu     sync.Mutex       // guards guests
	guests map[string]entry // by UUID; those without faults have none
}

type entry struct {
	text string
	set  *failpoint.Set
}

// Of returns a guest's points, or nil if it has none. It is nil for almost all guests.
func (b *Book) Of(uuid string) *failpoint.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.guests[uuid].set
}

// Note takes the script of a guest; one that has not changed keeps its counts.
func (b *Book) Note(uuid string, s Script) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(s.fails) == 0 {
		delete(b.guests, uuid)
		return nil
	}
	if b.guests[uuid].text == s.text {
		return nil
	}
	set, err := s.set()
	if err != nil {
		return err
	}
	if b.guests == nil || len(b.guests) >= maxSets {
		b.guests = make(map[string]entry)
	}
	b.guests[uuid] = entry{text: s.text, set: set}
	return nil
}
