package locks

import "github.com/lodgevirt/lodge/tests/lockd"

// known are faults of the daemon that these tests have found and that are not mended yet: what is true here is not tried.
var known = struct {
	// mixedAutocreate: whether a shared lock's file goes with it is decided by the flag of the last lease to end, and by the flag of the
	// first to begin in virtlockd, so a file may stay.
	mixedAutocreate bool
}{mixedAutocreate: true}

// avoids says whether a fault would show if a lock were taken with a flag that differs from that of the leases that are there.
func (f *thing) avoids(temporary bool) bool {
	return known.mixedAutocreate && len(f.shares) > 0 && f.temporary != temporary
}

// unmixed returns flags that do not differ from those of the leases that are there.
func (f *thing) unmixed(flags uint32) uint32 {
	if f.avoids(flags&lockd.Autocreate != 0) {
		flags ^= lockd.Autocreate
	}
	return flags
}
