package ownership

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	before = Owner{UID: 1234, GID: 1235}
	guests = Owner{UID: 4321, GID: 4322}
	others = Owner{UID: 5001, GID: 5002}
)

// sample is a file of a user's own. Only root can give files away.
func sample(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, int(before.UID), int(before.GID)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, "trusted.lodge.test", []byte("x"), 0); err != nil {
		t.Skipf("no extended attributes here: %v", err)
	}
	return path
}

func want(t *testing.T, path string, o Owner) {
	t.Helper()
	f, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if got, err := f.owner(); err != nil || got != o {
		t.Errorf("owner is %v, %v, want %v", got, err, o)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestFileComesBackToItsOwnerAfterTheLastGuest(t *testing.T) {
	path := sample(t)
	var k Keeper
	ok(t, k.Give(path, guests, false))
	ok(t, k.Give(path, guests, false))
	want(t, path, guests)
	ok(t, k.TakeBack(path, false))
	want(t, path, guests)
	ok(t, k.TakeBack(path, false))
	want(t, path, before)
	for _, attr := range []string{ownerAttr, countAttr, bootAttr} {
		if _, err := unix.Getxattr(path, attr, make([]byte, 10)); !errors.Is(err, unix.ENODATA) {
			t.Errorf("attribute %s is left: %v", attr, err)
		}
	}
}

func TestFileInUseIsNotGivenToAnotherUser(t *testing.T) {
	path := sample(t)
	var k Keeper
	ok(t, k.Give(path, guests, false))
	if err := k.Give(path, others, false); !errors.Is(err, ErrInUse) {
		t.Errorf("error is %v", err)
	}
	ok(t, k.Give(path, others, true))
	want(t, path, others)
	ok(t, k.TakeBack(path, true))
	ok(t, k.TakeBack(path, false))
	want(t, path, before)
}

func TestMemoryFromBeforeTheBootIsNotBelieved(t *testing.T) {
	path := sample(t)
	var k Keeper
	ok(t, k.Give(path, guests, false))
	ok(t, unix.Setxattr(path, bootAttr, []byte(strconv.FormatInt(bootTime()-3600, 10)), 0))
	ok(t, k.Give(path, others, false))
	ok(t, k.TakeBack(path, false))
	want(t, path, guests)
}

func TestFileOfWhichNothingIsRemembered(t *testing.T) {
	path := sample(t)
	var k Keeper
	ok(t, k.TakeBack(path, true))
	want(t, path, before)
	ok(t, k.TakeBack(path, false))
	want(t, path, Owner{})
	ok(t, k.TakeBack(path+".gone", false))
	if err := k.Give(path+".gone", guests, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestManyGuestsShareAFileAtOnce(t *testing.T) {
	path := sample(t)
	var k Keeper
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			ok(t, k.Give(path, guests, true))
			want(t, path, guests)
			ok(t, k.TakeBack(path, true))
		})
	}
	wg.Wait()
	want(t, path, before)
}

func FuzzParse(f *testing.F) {
	f.Add("+0:+0")
	f.Add("+64055:+107")
	f.Fuzz(func(t *testing.T, s string) {
		if o, ok := parse(s); ok {
			if again, ok := parse(o.String()); !ok || again != o {
				t.Errorf("%q became %v and %v", s, o, again)
			}
		}
	})
}
