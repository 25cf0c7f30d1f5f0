package guard

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
)

func open(t *testing.T, path, boot string) *Page {
	t.Helper()
	p, err := OpenPage(path, boot)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPageIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page")
	a := open(t, path, "boot")
	if l := a.Lease(); l != (Lease{}) {
		t.Errorf("a new page says %+v", l)
	}
	want := Lease{ID: -7, Ends: 1000, TTL: time.Minute}
	a.Set(want)
	b := open(t, path, "boot")
	if l := b.Lease(); l != want || a.Ident() != b.Ident() {
		t.Errorf("another one sees %+v in page %s, want %+v in %s", l, b.Ident(), want, a.Ident())
	}
	b.Raise(-7, 2000)
	b.Raise(-7, 1500)
	b.Raise(8, 3000)
	if l := a.Lease(); l.Ends != 2000 {
		t.Errorf("raised to 2000, the lease ends at %d", l.Ends)
	}
}

func TestPageThatIsNoneIsReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "of another size": "lodge-etcd-lease 1\n", "of another kind": string(make([]byte, pageSize)),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "page")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if l := open(t, path, "boot").Lease(); l != (Lease{}) {
				t.Errorf("it says %+v", l)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "page")
	before := open(t, path, "boot")
	before.Set(Lease{ID: 1, Ends: 2, TTL: 3})
	after := open(t, path, "the next boot")
	if l := after.Lease(); l != (Lease{}) || after.Ident() == before.Ident() {
		t.Errorf("after a reboot it says %+v", l)
	}
	if _, err := OpenPage(filepath.Join(path, "no", "folder"), "boot"); err == nil {
		t.Error("a page without a folder was made")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if p := open(t, path, "boot"); p.Lease() != (Lease{}) {
		t.Error("a link was followed")
	}
}

func TestRaiseNeverGoesBack(t *testing.T) {
	p := open(t, filepath.Join(t.TempDir(), "page"), "boot")
	p.Set(Lease{ID: 1, TTL: time.Second})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			last := boot.Time(0)
			for i := range 2000 {
				p.Raise(1, boot.Time(i*4+w))
				if now := p.Lease().Ends; now < last {
					t.Errorf("the end went from %d back to %d", last, now)
				} else {
					last = now
				}
			}
		})
	}
	wg.Wait()
	if l := p.Lease(); l.Ends != 7999 {
		t.Errorf("the end is %d", l.Ends)
	}
}
