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
		want       carried
		ok         bool
	}{
		{"no lock", head, carried{}, false},
		{"nothing", "", carried{}, false},
		{"exclusive", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:9978209 0 0\n", carried{OFD, Exclusive}, true},
		{"shared", head + "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:9978209 0 0\n", carried{OFD, Shared}, true},
		{"a kernel that says OFDLCK without a pid", head + "lock:\t1: OFDLCK  ADVISORY  WRITE 0 fe:00:9978209 0 EOF\n", carried{OFD, Exclusive}, true},
		{"a POSIX lock", head + "lock:\t1: POSIX ADVISORY  WRITE 77 fe:00:9978209 0 0\n", carried{POSIX, Exclusive}, true},
		{"a flock", head + "lock:\t1: FLOCK ADVISORY  WRITE 77 fe:00:9978209 0 EOF\n", carried{}, false},
		{"another byte", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:9978209 1 1\n", carried{}, false},
		{"the second of two", head + "lock:\t1: FLOCK ADVISORY WRITE 7 fe:00:1 0 EOF\nlock:\t2: OFDLCK ADVISORY READ -1 fe:00:1 0 0\n", carried{OFD, Shared}, true},
		{"an unknown kind", head + "lock:\t1: OFDLCK ADVISORY  NONE -1 fe:00:1 0 0\n", carried{}, false},
		{"a line cut short", head + "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00", carried{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if c, ok := parseInfo([]byte(tc.text)); c != tc.want || ok != tc.ok {
				t.Errorf("%v, %v, want %v, %v", c, ok, tc.want, tc.ok)
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
		c, ok := parseInfo([]byte(text))
		kind := map[Kind]string{OFD: "OFDLCK", POSIX: "POSIX"}[c.kind]
		mode := map[Mode]string{Exclusive: "WRITE", Shared: "READ"}[c.mode]
		if ok && (!strings.Contains(text, kind) || !strings.Contains(text, mode)) {
			t.Errorf("%v in %q", c, text)
		}
	})
}
