package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
)

// Layout of the page.
const (
	pageSize = 4096
	magic    = "lodge-etcd-lease 1\n"
	bootAt   = 32
	bootLen  = 64
	leaseAt  = 128
	endsAt   = 136
	ttlAt    = 144
)

// Page is the lease's time, in memory that the plugin and its guard share: a file of one page, in a folder that a reboot empties. It
// outlives both of them, so whoever comes next knows how long the locks are safe. Reading and writing it takes no call of the system
// and never waits. All methods are safe concurrently, among processes too.
type Page struct {
	mem   []byte
	ident string
}

// OpenPage maps the page at a path. One that another start of the machine has written, or that is no page, is replaced.
func OpenPage(path, bootID string) (*Page, error) {
	p, err := mapPage(path, bootID)
	if err == nil {
		return p, nil
	}
	if err := writePage(path, bootID); err != nil {
		return nil, fmt.Errorf("make page %q: %w", path, err)
	}
	if p, err = mapPage(path, bootID); err != nil {
		return nil, fmt.Errorf("map page %q: %w", path, err)
	}
	return p, nil
}

// writePage puts a page in the place of whatever is there; who has mapped the old one goes on with that.
func writePage(path, bootID string) error {
	if len(bootID) > bootLen {
		return fmt.Errorf("boot id %q is too long", bootID)
	}
	content := make([]byte, pageSize)
	copy(content, magic)
	copy(content[bootAt:], bootID)
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func mapPage(path, bootID string) (*Page, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != pageSize {
		return nil, errors.New("not a page")
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	p := &Page{mem: mem, ident: fmt.Sprintf("%d:%d", st.Dev, st.Ino)}
	// Whoever still has the page may use it: the mapping ends when nobody has.
	runtime.AddCleanup(p, func(mem []byte) { _ = unix.Munmap(mem) }, mem)
	want := make([]byte, bootLen)
	copy(want, bootID)
	if string(mem[:len(magic)]) != magic || string(mem[bootAt:bootAt+bootLen]) != string(want) {
		return nil, errors.New("of another start of the machine")
	}
	return p, nil
}

// Ident tells whether two processes have the same page.
func (p *Page) Ident() string { return p.ident }

func (p *Page) word(at int) *atomic.Int64 {
	return (*atomic.Int64)(unsafe.Pointer(&p.mem[at])) // a page is aligned, and so are the places
}

// Lease is what the page says.
type Lease struct {
	// ID of the etcd lease; 0 if there is none.
	ID int64
	// Ends is when it may end at the earliest, as far as anybody here knows.
	Ends boot.Time
	// TTL is how long it lives after each renewal.
	TTL time.Duration
}

// Safe is until when the locks are taken for held: a tenth of the lease's time before it may end. In that tenth fall what the clocks of
// this machine and of etcd's leader differ in, and the time that it takes until a process that was killed writes no more.
func (l Lease) Safe() boot.Time { return l.Ends.Add(-Margin(l.TTL)) }

// Late is when the core is told that the lease is not renewed: a third of its time before it may end.
func (l Lease) Late() boot.Time { return l.Ends.Add(-l.TTL / 3) }

// Margin is the part of a lease's time that is not relied on.
func Margin(ttl time.Duration) time.Duration { return ttl / 10 }

// Lease returns what the page says.
func (p *Page) Lease() Lease {
	defer runtime.KeepAlive(p)
	return Lease{ID: p.word(leaseAt).Load(), Ends: boot.Time(p.word(endsAt).Load()), TTL: time.Duration(p.word(ttlAt).Load())}
}

// Set puts another lease in. Only the plugin does, and only when the guests' deadlines do not rest on the old one any more.
func (p *Page) Set(l Lease) {
	defer runtime.KeepAlive(p)
	p.word(endsAt).Store(int64(l.Ends))
	p.word(ttlAt).Store(int64(l.TTL))
	p.word(leaseAt).Store(l.ID)
}

// Raise moves the end of a lease that was renewed, and never back. Another lease than the page's is left alone.
func (p *Page) Raise(id int64, ends boot.Time) {
	defer runtime.KeepAlive(p)
	for p.word(leaseAt).Load() == id {
		before := p.word(endsAt).Load()
		if before >= int64(ends) || p.word(endsAt).CompareAndSwap(before, int64(ends)) {
			return
		}
	}
}
