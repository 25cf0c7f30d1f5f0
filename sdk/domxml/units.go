package domxml

import (
	"math/bits"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// unitBytes are the units of sizes in bytes, in lower case; "" is KiB.
var unitBytes = map[string]uint64{
	"": 1 << 10, "b": 1, "byte": 1, "bytes": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3, "m": 1 << 20, "mib": 1 << 20, "mb": 1e6, "g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12, "p": 1 << 50, "pib": 1 << 50, "pb": 1e15, "e": 1 << 60, "eib": 1 << 60, "eb": 1e18,
}

// kibibytes turns a size in a unit into KiB, rounding up, and sets the unit to "KiB".
func kibibytes(value uint, unit *string) (uint, error) {
	factor, ok := unitBytes[strings.ToLower(*unit)]
	if !ok {
		return 0, verr.New(verr.InvalidArg, "unknown suffix '%s'", *unit)
	}
	high, low := bits.Mul64(uint64(value), factor)
	if high != 0 || low > 1<<63-1 {
		return 0, verr.New(verr.Overflow, "value too large: %d%s", value, *unit)
	}
	*unit = "KiB"
	return uint((low + 1023) >> 10), nil
}
