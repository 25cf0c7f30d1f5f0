package journal

import (
	"maps"
	"slices"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// digest finds out which entries of a journal still count, without reading more of them than it must. It has slices of the journal.
type digest struct {
	head    Record
	spaces  map[string]bool
	live    map[uint64][]byte // acquire entries by the lease's number
	process map[uint64]process.ID
}

func newDigest(boot string) *digest {
	return &digest{
		head: Record{Op: Boot, Boot: boot, Next: 1}, spaces: map[string]bool{}, live: map[uint64][]byte{},
		process: map[uint64]process.ID{},
	}
}

// add takes the entries of a frame in.
func (d *digest) add(content []byte) {
	c := cursor{rest: content}
	for len(c.rest) > 0 {
		entry := c.rest
		if c.byte() == codes[Acquire] {
			number := c.pass()
			if c.bad {
				return
			}
			d.live[number] = entry[:len(entry)-len(c.rest)]
			delete(d.process, number)
			d.head.Next = max(d.head.Next, number+1)
			continue
		}
		c.rest = entry
		r, err := c.record()
		if err != nil {
			return
		}
		d.apply(&r)
	}
}

func (d *digest) apply(r *Record) {
	switch r.Op {
	case Boot:
		d.head.Next = max(d.head.Next, r.Next)
	case Space:
		d.spaces[r.Space] = true
	case Process:
		for _, n := range r.Numbers {
			if d.live[n] != nil {
				d.process[n] = r.Owner.Process
			}
		}
	case Release:
		for _, n := range r.Numbers {
			delete(d.live, n)
			delete(d.process, n)
		}
	case Acquire:
		// They are not read this far.
	}
}

// dump returns the file that says the same.
func (d *digest) dump(salt uint64) []byte {
	out := newFile(salt)
	buf := appendRecord(nil, &d.head)
	out = appendFrame(out, salt, buf)
	for _, space := range slices.Sorted(maps.Keys(d.spaces)) {
		buf = appendRecord(buf[:0], &Record{Op: Space, Space: space})
		out = appendFrame(out, salt, buf)
	}
	for _, number := range slices.Sorted(maps.Keys(d.live)) {
		buf = append(buf[:0], d.live[number]...)
		if id, ok := d.process[number]; ok {
			buf = appendRecord(buf, &Record{Op: Process, Owner: Owner{Process: id}, Numbers: []uint64{number}})
		}
		out = appendFrame(out, salt, buf)
	}
	return out
}
