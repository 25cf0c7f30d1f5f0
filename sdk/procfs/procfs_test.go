package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

func TestBootIDAndStartTimeNameThisProcess(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("boot id %q, %v", id, err)
	}
	first, err := StartTime(os.Getpid())
	if err != nil || first == 0 {
		t.Errorf("start time %d, %v", first, err)
	}
	if init, err := StartTime(1); err != nil || init >= first {
		t.Errorf("pid 1 started at %d, after this process at %d: %v", init, first, err)
	}
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := StartTime(pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
}

func TestEndedProcessesAreSeenUntilTheyAreWaitedFor(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	before, err := ReadStat(pid)
	if err != nil || before.Ended() {
		t.Errorf("process that lives: %+v, %v", before, err)
	}
	_ = cmd.Process.Kill()
	for ended := false; !ended; {
		s, err := ReadStat(pid)
		if err != nil || s.StartTime != before.StartTime {
			t.Fatalf("process that was not waited for: %+v, %v", s, err)
		}
		ended = s.Ended()
	}
	_ = cmd.Wait()
	if _, err := ReadStat(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("process that is gone: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n"
	for _, tc := range []struct {
		name, text string
		ok         bool
	}{
		{"a plain name", "7 (sleep)" + tail, true},
		{"a name with blanks and parentheses", "7 (a) Z 1 (b c) 9)" + tail, true},
		{"a name with a line's end", "7 (a\nb)" + tail, true},
		{"an empty name", "7 ()" + tail, true},
		{"too few fields", "7 (sleep) S 1 2 3", false},
		{"no name", "7 x" + tail, false},
		{"nothing", "", false},
		{"no number", "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x", false},
		{"a number that is too large", "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := Stat{State: 'S', Exiting: 6&4 != 0, CPUTicks: 11 + 12, StartTime: 4242}
			if got, err := ParseStat([]byte(tc.text)); (err == nil) != tc.ok || (tc.ok && got != want) {
				t.Errorf("%+v, error %v", got, err)
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
		_, _ = ParseStat([]byte(name)) // as a whole file it may be anything
		file := fmt.Sprintf("7 (%s) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 20\n", name, start)
		if got, err := ParseStat([]byte(file)); err != nil || got.StartTime != start {
			t.Errorf("start time of %q is %+v, error %v", file, got, err)
		}
	})
}

func BenchmarkStartTime(b *testing.B) {
	for b.Loop() {
		if _, err := StartTime(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
