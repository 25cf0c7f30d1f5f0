package process

import (
	"fmt"
	"os"
	"testing"
)

func TestStartTimeIsReadFromStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n"
	for _, tc := range []struct {
		name, text string
		want       uint64
		ok         bool
	}{
		{"a plain name", "7 (sleep)" + tail, 4242, true},
		{"a name with blanks and parentheses", "7 (a) S 1 (b c) 9)" + tail, 4242, true},
		{"a name with a line's end", "7 (a\nb)" + tail, 4242, true},
		{"an empty name", "7 ()" + tail, 4242, true},
		{"too few fields", "7 (sleep) S 1 2 3", 0, false},
		{"nothing", "", 0, false},
		{"no number", "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x", 0, false},
		{"a number that is too large", "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := parseStat([]byte(tc.text)); (err == nil) != tc.ok || (tc.ok && got != tc.want) {
				t.Errorf("%d, error %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text), uint64(1))
	f.Add("a) S 1 (b", uint64(4242))
	f.Add(")", uint64(0))
	f.Fuzz(func(t *testing.T, name string, start uint64) {
		_, _ = parseStat([]byte(name)) // as a whole file it may be anything
		file := fmt.Sprintf("7 (%s) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 20\n", name, start)
		if got, err := parseStat([]byte(file)); err != nil || got != start {
			t.Errorf("start time of %q is %d, error %v", file, got, err)
		}
	})
}
