package layout

import (
	"encoding/binary"
	"testing"
)

func number(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func values(size, features, flags uint64, order byte) map[string][]byte {
	return map[string][]byte{"size": number(size), "features": number(features), "flags": number(flags), "order": {order}}
}

// objectMap is the map of an image whose objects have these states.
func objectMap(states ...byte) []byte {
	out := append([]byte{14, 0, 0, 0, 1, 1, 8, 0, 0, 0}, number(uint64(len(states)))...)
	data := make([]byte, (len(states)+3)/4)
	for n, s := range states {
		data[n/4] |= s << (6 - 2*(n%4))
	}
	return append(append(out, data...), 1, 2, 3, 4)
}

func TestHeadersAreRead(t *testing.T) {
	h, err := Parse(values(9<<20, 61, 0, 22))
	if err != nil || h != (Header{Size: 9 << 20, Object: 4 << 20, Unit: 4 << 20, Stripes: 1, Mapped: true}) {
		t.Errorf("%+v, error %v", h, err)
	}
	if h, err := Parse(values(1, 61, 1, 22)); err != nil || h.Mapped {
		t.Errorf("a map that is not true is believed: %+v, error %v", h, err)
	}
	if h, err := Parse(values(1, 1, 0, 22)); err != nil || h.Mapped {
		t.Errorf("a map that is not there is believed: %+v, error %v", h, err)
	}
	for name, v := range map[string]map[string][]byte{"nothing": nil, "a huge order": values(1, 1, 0, 64), "a huge size": values(1<<63, 1, 0, 22)} {
		if h, err := Parse(v); err == nil {
			t.Errorf("%s is %+v", name, h)
		}
	}
}

// TestStripedObjectsAreCutOff has an image of 50 MiB over sets of four objects, the last of which have half a megabyte each.
func TestStripedObjectsAreCutOff(t *testing.T) {
	v := values(50<<20, 1<<1|1<<3, 0, 22)
	v["stripe_unit"], v["stripe_count"] = number(64<<10), number(4)
	h, err := Parse(v)
	if err != nil || h.Unit != 64<<10 || h.Stripes != 4 {
		t.Fatalf("%+v, error %v", h, err)
	}
	all := make([]byte, 16)
	total := uint64(0)
	for n := range all {
		all[n] = 1
		total += h.within(uint64(n))
	}
	if got, err := h.Allocated(objectMap(all...)); err != nil || got != 50<<20 || total != 50<<20 || h.within(12) != 512<<10 || h.within(16) != 0 {
		t.Errorf("counts as %d, error %v; the objects have %d bytes, the 12th %d", got, err, total, h.within(12))
	}
	// A unit and a half of the last row.
	h.Size = 50<<20 + 96<<10
	if a, b, c := h.within(12), h.within(13), h.within(14); a != 576<<10 || b != 544<<10 || c != 512<<10 {
		t.Errorf("the last objects have %d, %d and %d bytes", a, b, c)
	}
	v["stripe_unit"] = number(3)
	if _, err := Parse(v); err == nil {
		t.Error("stripes that do not fit into objects are believed")
	}
}

func TestMapsAreCounted(t *testing.T) {
	h := Header{Size: 10 << 20, Object: 4 << 20, Unit: 4 << 20, Stripes: 1}
	for _, c := range []struct {
		data []byte
		want uint64
	}{{objectMap(0, 0, 0), 0}, {objectMap(1, 0, 0), 4 << 20}, {objectMap(1, 3, 0), 8 << 20}, {objectMap(0, 0, 1), 2 << 20}, {objectMap(1, 3, 1), 10 << 20}, {objectMap(1, 1, 1, 1, 1, 1, 1), 10 << 20}} {
		if got, err := h.Allocated(c.data); err != nil || got != c.want {
			t.Errorf("%v counts as %d, error %v, want %d", c.data, got, err, c.want)
		}
	}
	lie := objectMap(1)
	copy(lie[10:], number(1<<62))
	for _, data := range [][]byte{nil, {14, 0, 0, 0}, objectMap(1, 1)[:17], lie} {
		if n, err := h.Allocated(data); err == nil {
			t.Errorf("%v counts as %d", data, n)
		}
	}
	if n := h.MapSize(); n < len(objectMap(1, 1, 1)) {
		t.Errorf("map of %d bytes", n)
	}
}

func FuzzAllocated(f *testing.F) {
	f.Add(objectMap(1, 0, 3), uint64(9<<20))
	f.Fuzz(func(t *testing.T, data []byte, size uint64) {
		h := Header{Size: size >> 1, Object: 4 << 20, Unit: 1 << 20, Stripes: 1 + size%5}
		if n, err := h.Allocated(data); err == nil && n > h.Size {
			t.Errorf("%d of %d bytes", n, h.Size)
		}
		_, _ = String(data)
	})
}
