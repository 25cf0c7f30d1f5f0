package guard

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/sdk/procfs"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		os.Exit(Main(os.Args[2:]))
	}
	// The tests mostly wait for deadlines, so more of them than there are processors can run at once.
	flag.Parse()
	_ = flag.Set("test.parallel", "16")
	goleak.VerifyTestMain(m)
}

const (
	// patience is the longest that something may take on a machine that does much else.
	patience = 40 * time.Second
	ttl      = 3 * time.Second
)

// yard is a folder with a post, a page, and whatever guard runs for them.
type yard struct {
	*testing.T
	dir  string
	page *Page
	post *Post
	log  *lines
}

// lines is a log that tests look into.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newYard(t *testing.T, linger time.Duration) *yard {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	id, err := procfs.BootID()
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{T: t, dir: dir, page: open(t, filepath.Join(dir, PageFile), id), log: &lines{}}
	y.post = y.newPost(linger)
	t.Cleanup(y.endGuard)
	y.renewed()
	return y
}

// newPost is the post of a plugin's process.
func (y *yard) newPost(linger time.Duration) *Post {
	p := NewPost(y.dir, hclog.New(&hclog.LoggerOptions{Output: y.log}), linger, func() *Hello {
		return &Hello{Version: Version, Page: y.page.Ident(), Config: &config.Config{
			// Nobody is there, so the guard's own renewals fail.
			Endpoints: []string{"http://127.0.0.1:1"}, TTL: ttl, DialTimeout: time.Second, RequestTimeout: time.Second,
		}}
	})
	y.Cleanup(p.Close)
	return p
}

// endGuard kills the guard that is there at the end of a test.
func (y *yard) endGuard() {
	if err := End(y.dir); err != nil {
		y.Error(err)
	}
	y.post.reap()
}

// renewed moves the deadline as a plugin does after a renewal.
func (y *yard) renewed() {
	y.page.Set(Lease{ID: 7, Ends: boot.Now().Add(ttl), TTL: ttl})
}

func (y *yard) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	y.Cleanup(cancel)
	return ctx
}

// process is a guest's.
type process struct {
	Guest
	ended chan struct{}
}

// start starts a guest's process.
func (y *yard) start(name string) *process {
	y.Helper()
	cmd := exec.CommandContext(context.Background(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		y.Fatal(err)
	}
	start, err := boot.StartTime(int32(cmd.Process.Pid))
	if err != nil {
		y.Fatal(err)
	}
	p := &process{ended: make(chan struct{}), Guest: Guest{
		Life: record.Life{UUID: name, Generation: 1}, Name: name, PID: int32(cmd.Process.Pid), StartTime: start,
	}}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	y.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

func (y *yard) set(guests ...Guest) {
	y.Helper()
	if err := y.post.Set(y.ctx(), guests...); err != nil {
		y.Fatal(err)
	}
}

func (p *process) lives() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// wantEnd waits for a guest's end.
func (y *yard) wantEnd(p *process) {
	y.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		y.Fatalf("guest %q lives on", p.Name)
	}
}

// eventually waits until something is true.
func (y *yard) eventually(what string, is func() bool) {
	y.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			y.Fatalf("%s: not within %v; the log is\n%s", what, patience, y.log)
		}
	}
}

func TestGuardEndsGuestsAtTheDeadline(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	guest, spared, freed := y.start("guest"), y.start("spared"), y.start("freed")
	spared.Spare = true
	begun := boot.Now()
	y.renewed()
	y.set(guest.Guest, spared.Guest, freed.Guest, Guest{Life: record.Life{UUID: "remote"}})
	if err := y.post.Drop(y.ctx(), freed.Life); err != nil {
		t.Fatal(err)
	}
	y.post.Close() // nobody is there any more
	y.wantEnd(guest)
	if lived := boot.Now().Sub(begun); lived < ttl-Margin(ttl) {
		t.Errorf("the guest lived for %v, its lease was safe for %v", lived, ttl-Margin(ttl))
	} else if lived > ttl {
		t.Errorf("the guest lived for %v, longer than its lease", lived)
	}
	time.Sleep(Margin(ttl))
	if !spared.lives() || !freed.lives() {
		t.Errorf("the spared guest lives: %v; the one that was dropped lives: %v", spared.lives(), freed.lives())
	}
	y.eventually("the end is told", func() bool {
		_ = y.post.Set(y.ctx(), spared.Guest)
		return strings.Contains(y.log.String(), "guest was ended by its guard: guest=guest")
	})
}

func TestRenewalsKeepGuestsAlive(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	guest := y.start("guest")
	y.set(guest.Guest)
	for range 10 {
		time.Sleep(ttl / 5)
		y.page.Raise(7, boot.Now().Add(ttl))
	}
	if !guest.lives() {
		t.Error("the guest was ended although the lease was renewed")
	}
}

func TestALossHasADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	y.page.Set(Lease{ID: 7, Ends: boot.Now().Add(time.Hour), TTL: ttl})
	lost, mended := y.start("lost"), y.start("mended")
	y.set(lost.Guest, mended.Guest)
	at := boot.Now().Add(time.Second)
	lost.Lost, mended.Lost = at, at
	y.set(lost.Guest, mended.Guest)
	mended.Lost = 0
	y.set(mended.Guest)
	y.wantEnd(lost)
	if now := boot.Now(); now < at {
		t.Errorf("it was ended %v early", at.Sub(now))
	}
	if time.Sleep(200 * time.Millisecond); !mended.lives() {
		t.Error("the guest that got its lock again was ended")
	}
}

func TestTheNextPluginFindsTheGuard(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	guest := y.start("guest")
	y.set(guest.Guest)
	first := y.post.Guard(y.ctx())
	y.post.Close()
	next := y.newPost(time.Minute)
	other := y.start("other")
	y.renewed()
	next.Adopt(guest.Guest) // what the first one has written down
	if err := next.Set(y.ctx(), other.Guest); err != nil {
		t.Fatal(err)
	}
	if pid := next.Guard(y.ctx()); pid != first || first == 0 {
		t.Errorf("the guard was %d, now it is %d", first, pid)
	}
	y.wantEnd(guest)
	y.wantEnd(other)
}

func TestWhoHasNoLocksAnyMoreIsForgotten(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(y *yard, p *Post, other Guest) error{
		"while others have": func(y *yard, p *Post, other Guest) error { return p.Set(y.ctx(), other) },
		"while nobody has":  func(y *yard, p *Post, _ Guest) error { return p.tell(y.ctx(), nil, nil) },
		"while others had":  func(y *yard, p *Post, other Guest) error { p.Adopt(other); return p.tell(y.ctx(), nil, nil) },
		"and is told twice": func(y *yard, p *Post, _ Guest) error { _ = p.tell(y.ctx(), nil, nil); return p.tell(y.ctx(), nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, time.Minute)
			freed, other := y.start("freed"), y.start("other")
			y.set(freed.Guest) // and the plugin is killed before it says that the guest has none
			y.post.Close()
			if err := then(y, y.newPost(time.Minute), other.Guest); err != nil {
				t.Fatal(err)
			}
			time.Sleep(ttl + Margin(ttl))
			if !freed.lives() {
				t.Error("a guest was ended that has no locks")
			}
		})
	}
}

// running runs the post as a plugin does.
func (y *yard) running() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { y.post.Run(ctx) })
	y.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// hold keeps the lease alive until the test says otherwise.
func (y *yard) hold() { y.page.Set(Lease{ID: 7, Ends: boot.Now().Add(time.Hour), TTL: ttl}) }

func TestGuardThatFailsIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		times  int
	}{{"killed", syscall.SIGKILL, 3}, {"stuck", syscall.SIGSTOP, 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, time.Minute)
			y.hold()
			guest := y.start("guest")
			y.set(guest.Guest)
			y.running()
			for range c.times {
				before := y.post.Guard(y.ctx())
				if err := syscall.Kill(int(before), c.signal); err != nil {
					t.Fatal(err)
				}
				y.eventually("another guard", func() bool {
					now := y.post.Guard(y.ctx())
					return now != 0 && now != before
				})
			}
			if !guest.lives() {
				t.Fatal("the guest died with the guard")
			}
			y.renewed()
			y.wantEnd(guest)
			y.eventually("no guard is left as a zombie", func() bool {
				y.post.turn <- struct{}{}
				defer func() { <-y.post.turn }()
				return len(y.post.dead) == 0
			})
		})
	}
}

func TestGuardThatIsKilledIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	y.hold()
	y.set(y.start("guest").Guest)
	y.running()
	before := y.post.Guard(y.ctx())
	begun := time.Now()
	if err := syscall.Kill(int(before), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	y.eventually("another guard", func() bool {
		now := y.post.Guard(y.ctx())
		return now != 0 && now != before
	})
	t.Logf("replaced after %v", time.Since(begun).Round(time.Millisecond))
}

func TestGuardEndsWithoutGuests(t *testing.T) {
	t.Parallel()
	y := newYard(t, 300*time.Millisecond)
	y.hold()
	y.running()
	guest := y.start("guest")
	y.set(guest.Guest)
	first := y.post.Guard(y.ctx())
	time.Sleep(600 * time.Millisecond)
	if now := y.post.Guard(y.ctx()); now != first {
		t.Errorf("with a guest the guard %d became %d", first, now)
	}
	_ = syscall.Kill(int(guest.PID), syscall.SIGKILL)
	y.wantEnd(guest)
	if err := y.post.Drop(y.ctx(), guest.Life); err != nil {
		t.Fatal(err)
	}
	y.eventually("the guard has ended", func() bool { return y.post.Guard(y.ctx()) == 0 })
	again := y.start("again")
	y.set(again.Guest)
	if y.post.Guard(y.ctx()) == 0 {
		t.Error("the next guest has no guard")
	}
}

func TestGuardWhoseFolderIsGone(t *testing.T) {
	t.Parallel()
	y := newYard(t, 300*time.Millisecond)
	y.hold()
	guest := y.start("guest")
	y.set(guest.Guest, Guest{Life: record.Life{UUID: "remote"}})
	pid := y.post.Guard(y.ctx())
	_ = syscall.Kill(int(guest.PID), syscall.SIGKILL)
	time.Sleep(time.Second)
	if _, err := boot.StartTime(pid); err != nil {
		t.Fatalf("with a guest that has no process here the guard is gone: %v", err)
	}
	if err := os.RemoveAll(y.dir); err != nil {
		t.Fatal(err)
	}
	y.eventually("the guard has ended", func() bool { _, err := boot.StartTime(pid); return err != nil })
}

func TestGuestsWhoseProcessIsGone(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	y.hold()
	dead, other := y.start("dead"), y.start("other")
	_ = syscall.Kill(int(dead.PID), syscall.SIGKILL)
	y.wantEnd(dead)
	impostor := other.Guest
	impostor.Name, impostor.Life.UUID, impostor.StartTime, impostor.Lost = "impostor", "impostor", other.StartTime-1, 1
	y.set(dead.Guest, impostor, other.Guest)
	time.Sleep(3 * Margin(ttl))
	if !other.lives() {
		t.Error("a process was ended for another one that had its number before")
	}
	y.set(other.Guest)
	if all := y.post.all(); len(all) != 1 || all[0].Name != "other" {
		t.Errorf("guarded are still %v", all)
	}
}

func TestManyGuests(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	y.hold()
	guest := y.start("guest")
	var many []Guest
	for i := range 10000 {
		g := guest.Guest
		g.Life.UUID, g.Name = fmt.Sprintf("6695eb01-f6a4-8304-79aa-%012d", i), strings.Repeat("\x01", 1024)
		many = append(many, g)
	}
	y.set(many...)
	y.renewed()
	y.wantEnd(guest)
}

func TestAnotherPageNeedsAnotherGuard(t *testing.T) {
	t.Parallel()
	y := newYard(t, time.Minute)
	guest := y.start("guest")
	y.hold()
	y.set(guest.Guest)
	before := y.post.Guard(y.ctx())
	if err := os.Remove(filepath.Join(y.dir, PageFile)); err != nil {
		t.Fatal(err)
	}
	id, _ := procfs.BootID()
	y.page = open(t, filepath.Join(y.dir, PageFile), id)
	y.hold()
	next := y.newPost(time.Minute)
	if err := next.Set(y.ctx(), guest.Guest); err != nil {
		t.Fatal(err)
	}
	if now := next.Guard(y.ctx()); now == before {
		t.Error("a guard that looks at a page that is gone was kept")
	}
	if !guest.lives() {
		t.Error("the guest was ended")
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte(`{"Hello":{"Version":1},"Set":[{"UUID":"u","PID":1}]}` + "\n"))
	f.Add([]byte(`{"Error":"x","Ended":[{"Why":"y"}]}` + "\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, read := range []func() error{
			func() error { _, err := readLine[request](newReader(bytes.NewReader(line))); return err },
			func() error { _, err := readLine[response](newReader(bytes.NewReader(line))); return err },
		} {
			if err := read(); err == nil && !bytes.Contains(line, []byte("\n")) {
				t.Errorf("%q was read without its end", line)
			}
		}
	})
}

func FuzzParsePID(f *testing.F) {
	f.Add("17         4242                \n")
	f.Fuzz(func(t *testing.T, text string) {
		if pid, _, err := parsePID(text); err == nil && pid < 2 {
			t.Errorf("%q is process %d", text, pid)
		}
	})
}
