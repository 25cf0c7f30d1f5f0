package scsi

import (
	"encoding/binary"
	"slices"
	"testing"
)

func luns(entries ...uint64) []byte {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(entries)*lunSize))
	data = append(data, 0, 0, 0, 0)
	for _, e := range entries {
		data = binary.BigEndian.AppendUint64(data, e)
	}
	return data
}

func TestListsOfUnits(t *testing.T) {
	list := luns(2<<48, 0, 0x412c<<48, 0x0101<<48, 0xc101<<48, 1<<48|1, 2<<48)
	if got, err := ParseLUNs(list); err != nil || !slices.Equal(got, []int{0, 2, 0x412c}) {
		t.Errorf("units %v, error %v", got, err)
	}
	if got, err := ParseLUNs(list[:20]); err != nil || !slices.Equal(got, []int{2}) {
		t.Errorf("units of a list that was cut %v, error %v", got, err)
	}
	if _, err := ParseLUNs(list[:7]); err == nil {
		t.Error("a list without its length is read")
	}
}

func capacity(last uint64, size uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, last), size)
}

func TestCapacities(t *testing.T) {
	if c, err := ParseCapacity(capacity(2047, 512)); err != nil || c.Bytes() != 1<<20 {
		t.Errorf("%v, error %v", c, err)
	}
	for name, data := range map[string][]byte{
		"too short": make([]byte, 11), "no block size": capacity(1, 0), "an odd block size": capacity(1, 520), "tiny blocks": capacity(1, 256),
		"huge blocks": capacity(1, 1<<21), "beyond numbers": capacity(1<<60, 4096), "the last block of all": capacity(^uint64(0), 512),
	} {
		if c, err := ParseCapacity(data); err == nil {
			t.Errorf("%s: %v", name, c)
		}
	}
}

func page(descriptors ...[]byte) []byte {
	all := slices.Concat(descriptors...)
	return append([]byte{0, 0x83, byte(len(all) >> 8), byte(len(all))}, all...)
}

func name(code, kind byte, text string) []byte {
	return append([]byte{code, kind, 0, byte(len(text))}, text...)
}

func TestSerials(t *testing.T) {
	for want, data := range map[string][]byte{
		"3600a0b":          page(name(2, 1, "IET     00010001"), name(1, 3, "\x60\x0a\x0b"), name(1, 2, "eui")),
		"1IET_00010001":    page(name(2, 1, "IET     00010001  \x00")),
		"2657569":          page(name(1, 0x12, "port"), name(1, 2, "eui")),
		"":                 page(name(1, 0x13, "port's only")),
		"1a":               append(page(name(2, 1, "a")), "what follows the page"...),
		"1of a whole name": nil,
	} {
		if want == "1of a whole name" {
			data, want = page(name(2, 1, "cut"))[:10], ""
		}
		if got := ParseSerial(data); got != want {
			t.Errorf("serial %q, want %q", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(luns(1<<48, 0))
	f.Add(capacity(2047, 512))
	f.Add(page(name(2, 1, "IET     00010001"), name(1, 3, "\x60\x0a\x0b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if all, err := ParseLUNs(data); err == nil && !slices.IsSorted(all) {
			t.Errorf("units %v", all)
		}
		if c, err := ParseCapacity(data); err == nil && c.Bytes()/uint64(c.BlockSize) != c.Blocks {
			t.Errorf("capacity %v", c)
		}
		_ = ParseSerial(data)
		_, _ = IsDisk(data)
	})
}
