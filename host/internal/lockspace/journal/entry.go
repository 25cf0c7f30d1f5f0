package journal

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// errEntry says that bytes are no entry. Behind a right checksum that is a newer program's doing.
var errEntry = errors.New("malformed journal entry")

// codes are how operations are written.
var codes = map[Op]byte{Boot: 1, Space: 2, Acquire: 3, Process: 4, Release: 5}

// Flags of an acquire entry.
const (
	flagClassic byte = 1 << iota
	flagUnknown
	flagShared
	flagTemporary
)

// appendRecord appends a record as entries. An acquire has one for each lease, so that each can be copied by itself.
func appendRecord(b []byte, r *Record) []byte {
	switch r.Op {
	case Boot:
		b = appendString(append(b, codes[Boot]), r.Boot)
		b = binary.AppendUvarint(b, r.Next)
	case Space:
		b = appendString(append(b, codes[Space]), r.Space)
	case Acquire:
		for i := range r.Leases {
			b = appendLease(b, &r.Owner, &r.Leases[i])
		}
	case Process:
		b = appendProcess(append(b, codes[Process]), r.Owner.Process)
		b = appendNumbers(b, r.Numbers)
	case Release:
		b = appendNumbers(append(b, codes[Release]), r.Numbers)
	}
	return b
}

func appendLease(b []byte, o *Owner, l *Lease) []byte {
	b = append(b, codes[Acquire])
	b = binary.AppendUvarint(b, l.Number)
	var flags byte
	for _, f := range [...]struct {
		set bool
		bit byte
	}{
		{o.Classic, flagClassic},
		{o.Unknown, flagUnknown},
		{bool(l.Resource.Mode), flagShared},
		{l.Resource.Temporary, flagTemporary},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, flags)
	b = append(b, o.UUID[:]...)
	b = appendString(b, o.Name)
	b = binary.AppendUvarint(b, uint64(o.ID))
	b = binary.AppendUvarint(b, o.Generation)
	b = appendProcess(b, o.Process)
	b = appendString(b, l.Resource.Lockspace)
	b = appendString(b, l.Resource.Name)
	b = appendString(b, l.Resource.Disk)
	return binary.AppendVarint(b, l.Since.UnixMilli())
}

func appendProcess(b []byte, id process.ID) []byte {
	b = binary.AppendUvarint(b, uint64(uint32(id.PID)))
	return binary.AppendUvarint(b, id.StartTime)
}

func appendNumbers(b []byte, numbers []uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(numbers)))
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// cursor reads entries. After the first thing that is wrong it is bad and reads nothing more.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) uint() uint64 {
	v, n := binary.Uvarint(c.rest)
	return v * c.skip(n)
}

func (c *cursor) int() int64 {
	v, n := binary.Varint(c.rest)
	return v * int64(c.skip(n))
}

// skip goes on by n bytes and returns 1, or 0 if there is nothing to read.
func (c *cursor) skip(n int) uint64 {
	if n <= 0 || n > len(c.rest) {
		c.bad, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return 1
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.bad, c.rest = true, nil
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte() byte {
	if b := c.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (c *cursor) text() []byte { return c.bytes(c.uint()) }

func (c *cursor) process() process.ID {
	return process.ID{PID: int32(uint32(c.uint())), StartTime: c.uint()}
}

// numbers reads a list. Its length is bounded by what there is to read.
func (c *cursor) numbers() []uint64 {
	count := c.uint()
	if count > uint64(len(c.rest)) {
		c.bad, c.rest = true, nil
		return nil
	}
	numbers := make([]uint64, count)
	for i := range numbers {
		numbers[i] = c.uint()
	}
	return numbers
}

// lease reads an acquire entry behind its code.
func (c *cursor) lease() (o Owner, l Lease) {
	l.Number = c.uint()
	flags := c.byte()
	o.Classic, o.Unknown = flags&flagClassic != 0, flags&flagUnknown != 0
	copy(o.UUID[:], c.bytes(uint64(len(o.UUID))))
	o.Name = string(c.text())
	o.ID = uint32(c.uint())
	o.Generation = c.uint()
	o.Process = c.process()
	l.Resource = lockspace.Resource{
		Lockspace: string(c.text()), Name: string(c.text()), Disk: string(c.text()),
		Mode: lockspace.Mode(flags&flagShared != 0), Temporary: flags&flagTemporary != 0,
	}
	l.Since = time.UnixMilli(c.int()).UTC()
	return o, l
}

// pass goes past an acquire entry behind its code, and returns the lease's number.
func (c *cursor) pass() (number uint64) {
	number = c.uint()
	c.bytes(1 + uint64(len(Owner{}.UUID)))
	c.text()
	c.uint()
	c.uint()
	c.process()
	c.text()
	c.text()
	c.text()
	c.int()
	return number
}

// record reads one entry.
func (c *cursor) record() (Record, error) {
	var r Record
	switch code := c.byte(); code {
	case codes[Boot]:
		r = Record{Op: Boot, Boot: string(c.text()), Next: c.uint()}
	case codes[Space]:
		r = Record{Op: Space, Space: string(c.text())}
	case codes[Acquire]:
		o, l := c.lease()
		r = Record{Op: Acquire, Owner: o, Leases: []Lease{l}}
	case codes[Process]:
		r = Record{Op: Process, Owner: Owner{Process: c.process()}, Numbers: c.numbers()}
	case codes[Release]:
		r = Record{Op: Release, Numbers: c.numbers()}
	default:
		c.bad = true
	}
	if c.bad {
		return Record{}, errEntry
	}
	return r, nil
}
