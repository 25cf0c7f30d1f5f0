package node

import (
	"os"
	"slices"
	"testing"
)

func TestBootIDAndStartTimeNameThisProcess(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("boot id %q, %v", id, err)
	}
	first, err := ProcessStartTime(os.Getpid())
	if err != nil || first == 0 {
		t.Errorf("start time %d, %v", first, err)
	}
	if init, err := ProcessStartTime(1); err != nil || init >= first {
		t.Errorf("pid 1 started at %d, after this process at %d: %v", init, first, err)
	}
	if _, err := ProcessStartTime(0); err == nil {
		t.Error("process 0 was found")
	}
}

func TestCPUTimeIsThatOfOneProcess(t *testing.T) {
	pid := os.Getpid()
	start, err := ProcessStartTime(pid)
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

func TestStartTimeIsFoundBehindAnyName(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	for name, stat := range map[string]string{
		"a plain name": "5 (qemu)" + rest, "parentheses": "5 (a) (b))" + rest, "spaces and digits": "5 (x) S 9 9 9)" + rest,
	} {
		if got, err := parseStartTime(stat); err != nil || got != 777 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, stat := range []string{"", "5 (x)", "5 x S 1", "5 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"} {
		if got, err := parseStartTime(stat); err == nil {
			t.Errorf("%q gave %d", stat, got)
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
	f.Add("5 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseList(text); err == nil && slices.IsSorted(list) {
			again, err := parseList(formatList(list))
			if compact := slices.Compact(slices.Clone(list)); err != nil || len(again) < len(compact) {
				t.Errorf("%q: %v became %v, %v", text, list, again, err)
			}
		}
		parseMeminfo(text)
		parseCPUInfo(text)
		_, _ = parseStartTime(text)
		_, _ = parseCPUTimes([]string{text})
		cacheSize(text)
	})
}
