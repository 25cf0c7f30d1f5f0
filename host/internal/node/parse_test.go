package node

import (
	"os"
	"slices"
	"testing"

	"github.com/lodgevirt/lodge/sdk/procfs"
)

func TestCPUTimeIsThatOfOneProcess(t *testing.T) {
	pid := os.Getpid()
	start, err := procfs.StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pid   int
		start uint64
	}{"another process with the pid": {pid, start + 1}, "a process that is gone": {1 << 30, start}} {
		if got, err := ProcessCPUTime(int32(tc.pid), tc.start); err != nil || got != 0 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for used := uint64(0); used == 0; { // until the first tick has been counted
		if used, err = ProcessCPUTime(int32(pid), start); err != nil {
			t.Fatal(err)
		}
	}
}

func TestListsOfNumbers(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []int
		ok   bool
	}{
		{"", nil, true},
		{"0", []int{0}, true},
		{"0-2,5,7-8", []int{0, 1, 2, 5, 7, 8}, true},
		{"2-1", nil, false},
		{"a", nil, false},
		{"1,", nil, false},
		{"-1", nil, false},
		{"0-70000", nil, false},
		{"0-65535,0-65535", nil, false},
	} {
		got, err := parseList(tc.text)
		if (err == nil) != tc.ok || !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v, %v", tc.text, got, err)
		}
		if tc.ok && formatList(got) != tc.text {
			t.Errorf("%q became %q", tc.text, formatList(got))
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("0-3,8")
	f.Add("Node 0 MemTotal:  2000 kB\n")
	f.Add("processor : 0\n\nprocessor : 1")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseList(text); err == nil && slices.IsSorted(list) {
			again, err := parseList(formatList(list))
			if compact := slices.Compact(slices.Clone(list)); err != nil || len(again) < len(compact) {
				t.Errorf("%q: %v became %v, %v", text, list, again, err)
			}
		}
		parseMeminfo(text)
		parseCPUInfo(text)
		_, _ = parseCPUTimes([]string{text})
		cacheSize(text)
	})
}
