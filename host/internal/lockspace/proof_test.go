package lockspace

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLockIsReadFromDescriptorInfo(t *testing.T) {
	const head = "pos:\t0\nflags:\t02100002\nmnt_id:\t25\nino:\t9978209\n"
	for _, tc := range []struct {
		name, text string
		mode       Mode
		ok         bool
	}{
		{"no lock", head, Exclusive, false},
		{"nothing", "", Exclusive, false},
		{"exclusive", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:9978209 0 0\n", Exclusive, true},
		{"shared", head + "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:9978209 0 0\n", Shared, true},
		{"a kernel that says OFDLCK without a pid", head + "lock:\t1: OFDLCK  ADVISORY  WRITE 0 fe:00:9978209 0 EOF\n", Exclusive, true},
		{"a POSIX lock, which is a process's", head + "lock:\t1: POSIX ADVISORY  WRITE 77 fe:00:9978209 0 0\n", Exclusive, false},
		{"a flock", head + "lock:\t1: FLOCK ADVISORY  WRITE 77 fe:00:9978209 0 EOF\n", Exclusive, false},
		{"another byte", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:9978209 1 1\n", Exclusive, false},
		{"the second of two", head + "lock:\t1: FLOCK ADVISORY WRITE 7 fe:00:1 0 EOF\nlock:\t2: OFDLCK ADVISORY READ -1 fe:00:1 0 0\n", Shared, true},
		{"an unknown kind", head + "lock:\t1: OFDLCK ADVISORY  NONE -1 fe:00:1 0 0\n", Exclusive, false},
		{"a line cut short", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00", Exclusive, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if mode, ok := parseInfo(strings.NewReader(tc.text)); mode != tc.mode || ok != tc.ok {
				t.Errorf("%v, %v, want %v, %v", mode, ok, tc.mode, tc.ok)
			}
		})
	}
}

func FuzzParseInfo(f *testing.F) {
	// A real one, as this kernel writes it.
	file, err := os.CreateTemp(f.TempDir(), "lock")
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/fdinfo/" + fmt.Sprint(file.Fd()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:9978209 0 0\n")
	f.Add("lock:\n")
	f.Fuzz(func(t *testing.T, text string) {
		mode, ok := parseInfo(strings.NewReader(text))
		word := map[Mode]string{Exclusive: "WRITE", Shared: "READ"}[mode]
		if ok && (!strings.Contains(text, "OFDLCK") || !strings.Contains(text, word)) {
			t.Errorf("%v lock in %q", mode, text)
		}
	})
}
