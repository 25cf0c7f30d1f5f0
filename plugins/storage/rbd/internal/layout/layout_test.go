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
	if err != nil || h != (Header{Size: 9 << 20, Object: 4 << 20, Mapped: true}) {
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

func TestMapsAreCounted(t *testing.T) {
	h := Header{Size: 10 << 20, Object: 4 << 20}
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
		h := Header{Size: size >> 1, Object: 4 << 20}
		if n, err := h.Allocated(data); err == nil && n > h.Size {
			t.Errorf("%d of %d bytes", n, h.Size)
		}
		_, _ = String(data)
	})
}
