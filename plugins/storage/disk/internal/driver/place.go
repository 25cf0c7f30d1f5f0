package driver

import (
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// aligned is where partitions begin if they fit so, in bytes: what parted and all systems since 2009 do.
	aligned = 1 << 20
	// maxPrimary is how many partitions a table of kind "msdos" has that are in no other.
	maxPrimary = 4
	msdos      = "msdos"
)

// plan is a partition to be made.
type plan struct {
	parted.Space
	Number   int
	Extended bool
}

// place finds number and room for a partition, by libvirt's rules: a logical one only if there are four others, in the smallest piece of
// free room that is big enough.
func place(t *parted.Table, def *poolxml.Volume) (plan, error) {
	p := plan{Extended: def.Target.Format.Type == define.Extended}
	var err error
	if p.Logical, err = logical(t, p.Extended); err != nil {
		return plan{}, err
	}
	p.Number = number(t, p.Logical)
	size := round(def.CapacityBytes, t.Sector)
	best := uint64(0)
	for _, unit := range []uint64{aligned, t.Sector} {
		for _, free := range t.Free {
			start := max(free.Start, firstFree)
			if p.Logical { // the block before it has the table that leads to it
				start += t.Sector
			}
			start = round(start, unit)
			fits := free.Logical == p.Logical && start < free.End && free.End-start >= size
			if fits && (best == 0 || free.Size() < best) {
				best, p.Start, p.End = free.Size(), start, start+size
			}
		}
		if best > 0 {
			return p, nil
		}
	}
	return plan{}, verr.New(verr.OperationFailed, "no large enough free extent for %d bytes", size).In(verr.FromStorage)
}

func round(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }

// logical decides whether the next partition lies within an extended one.
func logical(t *parted.Table, extended bool) (bool, error) {
	if t.Label != msdos {
		if extended {
			return false, verr.New(verr.ConfigUnsupported, "a partition table of kind '%s' has no extended partitions", t.Label).In(verr.FromStorage)
		}
		return false, nil
	}
	outer, has := 0, false
	for _, part := range t.Parts {
		has = has || part.Extended
		if !part.Logical {
			outer++
		}
	}
	switch {
	case extended && has:
		return false, verr.New(verr.OperationFailed, "extended partition already exists").In(verr.FromStorage)
	case outer < maxPrimary:
		return false, nil
	case extended || !has:
		return false, verr.New(verr.OperationFailed, "no extended partition found and no primary partition available").In(verr.FromStorage)
	}
	return true, nil
}

// number is the number that parted gives the next partition.
func number(t *parted.Table, logical bool) int {
	taken := map[int]bool{}
	for _, part := range t.Parts {
		taken[part.Number] = true
	}
	n := 1
	if logical {
		n = maxPrimary + 1
	}
	for taken[n] || t.Label == "sun" && n == 3 { // the third is the whole disk there
		n++
	}
	return n
}
