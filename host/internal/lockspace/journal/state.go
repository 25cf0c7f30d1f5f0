package journal

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// Op is what a record says.
type Op string

// Operations.
const (
	// Boot opens a journal: the boot of the machine that everything after it belongs to.
	Boot Op = "boot"
	// Space adds a lockspace.
	Space Op = "space"
	// Acquire adds leases of one owner, all or none.
	Acquire Op = "acquire"
	// Process says which process the owner of leases has become.
	Process Op = "process"
	// Release ends leases by their numbers.
	Release Op = "release"
)

// Owner is who holds leases.
type Owner struct {
	// UUID of the guest.
	UUID uuid.UUID `json:"uuid"`
	// Name of the guest.
	Name string `json:"name"`
	// ID is libvirt's number of the running guest.
	ID uint32 `json:"id,omitempty"`
	// Generation counts the guest's starts; leases of one generation are never taken for those of another.
	Generation uint64 `json:"gen,omitempty"`
	// Classic marks a client of virtlockd's protocol, which has no generation and is told apart by its process.
	Classic bool `json:"classic,omitempty"`
	// Unknown marks a lock that nobody describes; nothing else is known then.
	Unknown bool `json:"unknown,omitempty"`
	// Process is the guest's, or zero while it has none.
	Process process.ID `json:"process,omitzero"`
}

// Lease is one lock of one owner.
type Lease struct {
	// Number is never used twice within a journal.
	Number uint64 `json:"n"`
	// Owner is kept in the record, not here, when written.
	Owner Owner `json:"-"`
	// Resource is what is locked.
	Resource lockspace.Resource `json:"resource"`
	// Since is when it was taken.
	Since time.Time `json:"since"`
}

// Record is one thing that happened. Which fields count depends on Op.
type Record struct {
	Op   Op     `json:"op"`
	Boot string `json:"boot,omitempty"`
	// Next comes with Boot: a number that no lease has had.
	Next    uint64   `json:"next,omitempty"`
	Space   string   `json:"space,omitempty"`
	Owner   Owner    `json:"owner,omitzero"`
	Leases  []Lease  `json:"leases,omitempty"`
	Numbers []uint64 `json:"numbers,omitempty"`
}

// State is what all records together say.
type State struct {
	// Boot is the machine's boot that the records were written in.
	Boot string
	// Spaces are the known lockspaces.
	Spaces map[string]bool
	// Leases are the living ones by number.
	Leases map[uint64]Lease
	// Next is a number that no lease has had.
	Next uint64
}

func newState() State {
	return State{Spaces: map[string]bool{}, Leases: map[uint64]Lease{}, Next: 1}
}

// apply folds one record in. Records about leases that are not there change nothing.
func (s *State) apply(r Record) {
	switch r.Op {
	case Boot:
		s.Boot = r.Boot
		s.Next = max(s.Next, r.Next)
	case Space:
		s.Spaces[r.Space] = true
	case Acquire:
		for _, l := range r.Leases {
			l.Owner = r.Owner
			s.Leases[l.Number] = l
			s.Next = max(s.Next, l.Number+1)
		}
	case Process:
		for _, n := range r.Numbers {
			if l, ok := s.Leases[n]; ok {
				l.Owner.Process = r.Owner.Process
				s.Leases[n] = l
			}
		}
	case Release:
		for _, n := range r.Numbers {
			delete(s.Leases, n)
		}
	}
}

// records are the shortest journal that says the same. Each is good until the next one.
func (s *State) records() iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		if !yield(&Record{Op: Boot, Boot: s.Boot, Next: s.Next}) {
			return
		}
		for _, space := range slices.Sorted(maps.Keys(s.Spaces)) {
			if !yield(&Record{Op: Space, Space: space}) {
				return
			}
		}
		rec := Record{Op: Acquire, Leases: make([]Lease, 1)}
		for _, n := range slices.Sorted(maps.Keys(s.Leases)) {
			rec.Leases[0] = s.Leases[n]
			rec.Owner = rec.Leases[0].Owner
			if !yield(&rec) {
				return
			}
		}
	}
}

// Sorted returns the leases in the order of their numbers.
func (s *State) Sorted() []Lease {
	numbers := slices.Sorted(maps.Keys(s.Leases))
	out := make([]Lease, len(numbers))
	for i, n := range numbers {
		out[i] = s.Leases[n]
	}
	return out
}

// dump returns the shortest file that says the same.
func (s *State) dump(salt uint64) []byte {
	out := newFile(salt)
	var buf []byte
	for r := range s.records() {
		buf = appendRecord(buf[:0], r)
		out = appendFrame(out, salt, buf)
	}
	return out
}

// newFile returns the head of a file.
func newFile(salt uint64) []byte {
	return binary.NativeEndian.AppendUint64([]byte(magic), salt)
}
