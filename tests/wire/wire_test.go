package wire_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/lodgevirt/lodge/tests/wire"
)

// TestStringsArePadded holds the XDR of strings: length, bytes, and zeros up to four.
func TestStringsArePadded(t *testing.T) {
	for in, want := range map[string][]byte{
		"":      {0, 0, 0, 0},
		"abcd":  {0, 0, 0, 4, 'a', 'b', 'c', 'd'},
		"abcde": {0, 0, 0, 5, 'a', 'b', 'c', 'd', 'e', 0, 0, 0},
	} {
		got := wire.String(nil, in)
		if !bytes.Equal(got, want) {
			t.Errorf("%q is encoded as %v, want %v", in, got, want)
		}
		if r := (wire.Reader{Rest: got}); r.String() != in || len(r.Rest) != 0 || r.Err != nil {
			t.Errorf("%q does not come back", in)
		}
	}
}

func TestAReaderReadsNothingThatIsNotThere(t *testing.T) {
	r := wire.Reader{Rest: []byte{0, 0, 0, 9, 1, 2, 3}}
	if s := r.String(); s != "" || r.Err == nil {
		t.Errorf("the string is %q (%v), want an error", s, r.Err)
	}
	if n := r.Uint64(); n != 0 {
		t.Errorf("after an error a number is %d, want 0", n)
	}
	r = wire.Reader{Rest: []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}}
	if n := r.Count(4); n != 0 || r.Err == nil {
		t.Errorf("the list has %d elements (%v), want an error", n, r.Err)
	}
}

// FuzzParseError looks for an error's payload that the client cannot take.
func FuzzParseError(f *testing.F) {
	whole := []byte{0, 0, 0, 42, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 2, 'n', 'o', 0, 0}
	f.Add(whole)
	f.Add(whole[:15])
	f.Add(binary.BigEndian.AppendUint32(whole[:12:12], 1<<31))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if e := wire.ParseError(payload); e.Error() == "" {
			t.Error("an error's payload became no error")
		}
	})
}
