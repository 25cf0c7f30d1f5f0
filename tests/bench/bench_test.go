package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

// TestRatioSaysHowManyTimesBetter holds the direction of the last column.
func TestRatioSaysHowManyTimesBetter(t *testing.T) {
	for name, tc := range map[string]struct {
		ours, theirs figure
		want         string
	}{
		"twice the rate is twice as good": {figure{value: 200, more: true}, figure{value: 100, more: true}, "2.00"},
		"half the time is twice as good":  {figure{value: 1}, figure{value: 2}, "2.00"},
		"nothing measured is no ratio":    {figure{}, figure{value: 2}, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ratio([]figure{tc.ours, tc.theirs}); got != tc.want {
				t.Errorf("ratio is %s, want %s", got, tc.want)
			}
		})
	}
}

// TestReportIsATable checks that every line of the table has as many cells as its head.
func TestReportIsATable(t *testing.T) {
	a, b := newResult("a"), newResult("b")
	a.time("start", time.Second)
	a.load("call", 1, load{calls: 2, took: time.Second, times: []time.Duration{1, 2}})
	b.time("start", 2*time.Second)
	_, table, _ := strings.Cut(report([]*result{a, b}), "\n\n")
	for line := range strings.Lines(table) {
		if got := strings.Count(line, "|"); got != 7 {
			t.Errorf("%d bars in %q, want 7", got, line)
		}
	}
}

// TestStringsArePadded holds the XDR of strings: length, bytes, and zeros up to four.
func TestStringsArePadded(t *testing.T) {
	for in, want := range map[string][]byte{
		"":      {0, 0, 0, 0},
		"abcd":  {0, 0, 0, 4, 'a', 'b', 'c', 'd'},
		"abcde": {0, 0, 0, 5, 'a', 'b', 'c', 'd', 'e', 0, 0, 0},
	} {
		if got := appendString(nil, in); !bytes.Equal(got, want) {
			t.Errorf("%q is encoded as %v, want %v", in, got, want)
		}
	}
}

// FuzzDecodeError looks for an error's payload that the client cannot take.
func FuzzDecodeError(f *testing.F) {
	whole := []byte{0, 0, 0, 42, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 2, 'n', 'o', 0, 0}
	f.Add(whole)
	f.Add(whole[:15])
	f.Add(binary.BigEndian.AppendUint32(whole[:12:12], 1<<31))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if decodeError(payload) == nil {
			t.Error("an error's payload became no error")
		}
	})
}
