package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// lockServer is a fake of what knows owners by who has connected: it answers each message of four bytes with the same four, and
// remembers the pids.
type lockServer struct {
	path   string
	pids   chan int
	gone   chan struct{}
	silent bool
}

func newLockServer(t *testing.T, silent bool) *lockServer {
	t.Helper()
	s := &lockServer{
		path: filepath.Join(t.TempDir(), "locks.sock"), pids: make(chan int, 16), gone: make(chan struct{}, 16), silent: silent,
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-served })
	go func() {
		defer close(served)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go s.serve(t, conn)
		}
	}()
	return s
}

func (s *lockServer) serve(t *testing.T, conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		t.Error(cerr, err)
		return
	}
	s.pids <- int(cred.Pid)
	message := make([]byte, 4)
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			s.gone <- struct{}{}
			return
		}
		if !s.silent {
			_, _ = conn.Write(message) // a test that waits for it says so
		}
	}
}

func (s *lockServer) registration() Registration {
	return Registration{Socket: s.path, Exchanges: []Exchange{
		{Send: []byte("one!"), Receive: 4, Want: []byte("one?"), Mask: []byte{0xff, 0xff, 0xff, 0}},
		{Send: []byte("two!"), Receive: 4},
	}}
}

func TestGuestsProcessRegistersItselfAndKeepsTheConnection(t *testing.T) {
	server := newLockServer(t, false)
	spec := sample(t, "exec sleep 60")
	spec.Registrations = []Registration{server.registration(), server.registration()}
	var ready ID
	spec.Ready = func(_ context.Context, id ID) error {
		ready = id
		found, err := Find(t.Context(), "test", spec.Marker.UUID)
		if err != nil || len(found) != 1 || found[0].ID != id || !found[0].Stage {
			t.Errorf("at the gate: found %+v, %v", found, err)
		}
		return nil
	}
	p := launch(t, spec)
	if p.ID() != ready {
		t.Errorf("process is %v, was asked for %v", p.ID(), ready)
	}
	for range 2 {
		if pid := <-server.pids; pid != ready.PID {
			t.Errorf("process %d has registered, not %d", pid, ready.PID)
		}
	}
	if start, err := procfs.StartTime(ready.PID); err != nil || start != ready.StartTime {
		t.Errorf("start time is %d, %v; was %d", start, err, ready.StartTime)
	}
	found, err := Find(t.Context(), "test", spec.Marker.UUID)
	if err != nil || len(found) != 1 || found[0] != (Found{ID: ready, Marker: spec.Marker}) {
		t.Errorf("found %+v, %v", found, err)
	}
	if id, err := ReadRecord(spec.Dir); err != nil || id != ready {
		t.Errorf("record says %v, %v", id, err)
	}
	select {
	case <-server.gone:
		t.Error("a connection was closed")
	case <-time.After(50 * time.Millisecond):
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-server.gone
	<-server.gone
}

// What differs between a program that went through the gate and one that did not are its connections alone.
func TestProgramBehindTheGateIsLikeAnyOther(t *testing.T) {
	server := newLockServer(t, false)
	traits := func(gated bool) map[string]string {
		spec := sample(t, "exec sleep 60")
		spec.OpenFiles, spec.OOMScoreAdj, spec.Env = 777, 321, []string{"A=b"}
		lease, err := os.Create(filepath.Join(spec.Dir, "lease"))
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close()
		spec.Files = []*os.File{lease}
		if os.Geteuid() == 0 {
			spec.Owner = &Owner{UID: 12345, GID: 23456, Groups: []uint32{34567, 23456}}
			if err := errors.Join(os.Chmod(spec.Dir, 0o755), os.Chmod(filepath.Dir(spec.Dir), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		files := 4
		if gated {
			spec.Registrations = []Registration{server.registration()}
			files++
		}
		return traitsOf(t, launch(t, spec).ID().PID, files, spec)
	}
	plain, gated := traits(false), traits(true)
	for _, name := range slices.Sorted(maps.Keys(plain)) {
		want := plain[name]
		if name == "fd" {
			want += " socket"
		}
		if gated[name] != want {
			t.Errorf("%s is %q behind the gate, else %q", name, gated[name], want)
		}
	}
}

// traitsOf is what the kernel says of a process that sleeps and has so many files open.
func traitsOf(t *testing.T, pid, files int, spec Spec) map[string]string {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(spec.Dir, "DIR", spec.Marker.UUID, "UUID").Replace(string(text))
	}
	// The shell and the dynamic loader have files of their own open until sleep runs; in the middle of an exec there is no environment.
	settled := func() bool {
		return read("comm") == "sleep\n" && read("environ") != "" && len(descriptors(t, filepath.Join(dir, "fd"))) == files
	}
	for deadline := time.Now().Add(10 * time.Second); !settled() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	traits := map[string]string{"environ": read("environ"), "limits": read("limits"), "oom": read("oom_score_adj"), "cgroup": read("cgroup")}
	for line := range strings.Lines(read("status")) {
		name, value, _ := strings.Cut(line, ":")
		if slices.Contains([]string{"Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapEff", "CapInh", "CapAmb", "Threads", "Umask"}, name) {
			traits[name] = strings.TrimSpace(value)
		}
	}
	stat := read("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	traits["session of its own"] = fmt.Sprint(fields[3] == strconv.Itoa(pid))
	cwd, err := os.Readlink(filepath.Join(dir, "cwd"))
	if err != nil {
		t.Fatal(err)
	}
	traits["cwd"] = strings.ReplaceAll(cwd, spec.Dir, "DIR")
	open := descriptors(t, filepath.Join(dir, "fd"))
	var names []string
	for _, fd := range slices.Sorted(maps.Keys(open)) {
		name, _, _ := strings.Cut(filepath.Base(open[fd]), ":")
		names = append(names, name)
	}
	traits["fd"] = strings.Join(names, " ")
	return traits
}

func TestRefusalLeavesNothing(t *testing.T) {
	server := newLockServer(t, false)
	spec := sample(t, "exec sleep 60")
	spec.Registrations = []Registration{server.registration()}
	refused := errors.New("somebody else has it")
	spec.Ready = func(context.Context, ID) error { return refused }
	if _, _, err := Launch(t.Context(), spec); !errors.Is(err, refused) {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, spec)
	<-server.gone
}

func TestFailedRegistrationLeavesNothing(t *testing.T) {
	server := newLockServer(t, false)
	with := func(change func(*Registration)) Registration {
		r := server.registration()
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		registration Registration
		say          string
	}{
		"nobody listens":              {Registration{Socket: "/nonexistent"}, "no such file"},
		"the path is too long":        {Registration{Socket: "/" + strings.Repeat("x", 200)}, "invalid argument"},
		"another answer":              {with(func(r *Registration) { r.Exchanges[0].Want = []byte("two?") }), "6f6e6521"},
		"an answer that is too long":  {with(func(r *Registration) { r.Exchanges[1].Receive = maxMessage + 1 }), "at most 65536"},
		"a message that is too long":  {with(func(r *Registration) { r.Exchanges[1].Send = make([]byte, maxMessage+1) }), "at most 65536"},
		"a mask of another length":    {with(func(r *Registration) { r.Exchanges[0].Mask = []byte{1} }), "mask of 1"},
		"more exchanges than allowed": {Registration{Socket: server.path, Exchanges: make([]Exchange, maxExchanges+1)}, "at most 16"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := sample(t, "exec sleep 60")
			spec.Registrations = []Registration{c.registration}
			spec.Ready = func(context.Context, ID) error { t.Error("it was asked for"); return nil }
			_, _, err := Launch(t.Context(), spec)
			if !errors.Is(err, ErrRegistration) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error is %v", err)
			}
			nothingLeft(t, spec)
		})
	}
}

func TestMissingProgramBehindTheGateLeavesNothing(t *testing.T) {
	spec := sample(t, "")
	spec.Path = filepath.Join(spec.Dir, "missing")
	spec.Ready = func(context.Context, ID) error { return nil }
	if _, _, err := Launch(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, spec)
}

func TestCancelledRegistrationLeavesNothing(t *testing.T) {
	server := newLockServer(t, true)
	spec := sample(t, "exec sleep 60")
	spec.Registrations = []Registration{server.registration()}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-server.pids
		cancel()
	}()
	if _, _, err := Launch(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, spec)
}

// A process at the gate is on its own when the plugin dies, wherever it has got to.
func TestProcessAtTheGateEndsWithItsPlugin(t *testing.T) {
	silent, answering := newLockServer(t, true), newLockServer(t, false)
	for name, registrations := range map[string][]Registration{
		"in the middle of a registration": {silent.registration()},
		"when it has registered":          {answering.registration()},
		"with nothing to register":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			spec := sample(t, "exec sleep 60")
			spec.Registrations, spec.Ready = registrations, func(context.Context, ID) error { return nil }
			g, theirs, err := makeGate(&spec)
			if err != nil {
				t.Fatal(err)
			}
			r, err := runStage(t.Context(), spec)
			theirs.Close()
			if err != nil {
				t.Fatal(err)
			}
			p, err := Open(r.ID)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			orders, err := json.Marshal(gateOrders{Path: spec.Path, Args: spec.Args, Registrations: registrations})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.ours.Write(orders); err != nil {
				t.Fatal(err)
			}
			if len(registrations) > 0 && registrations[0].Socket == silent.path {
				<-silent.pids
			} else if word, err := readWord(json.NewDecoder(g.ours)); err != nil || !word.Registered {
				t.Fatalf("it said %+v, %v", word, err)
			}
			g.ours.Close() // as the plugin's end does
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := p.Wait(ctx); err != nil {
				t.Error(err)
			}
			if found, err := Find(t.Context(), "test", spec.Marker.UUID); err != nil || len(found) != 0 {
				t.Errorf("left %+v, %v", found, err)
			}
		})
	}
}

// FuzzExchange holds that an answer is compared under its mask and nothing else, and that no exchange makes the comparison fail.
func FuzzExchange(f *testing.F) {
	f.Add([]byte("answer"), []byte("answer"), []byte{0xff, 0, 0xff, 0, 0xff, 0})
	f.Add([]byte("a"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, answer, want, mask []byte) {
		e := Exchange{Receive: len(answer), Want: want, Mask: mask}
		if e.check() != nil {
			return
		}
		same := true
		for i := range mask {
			same = same && answer[i]&mask[i] == want[i]&mask[i]
		}
		before := bytes.Clone(want)
		if err := e.compare(answer); (err == nil) != same || !bytes.Equal(before, want) {
			t.Errorf("%x under %x against %x: %v", answer, mask, want, err)
		}
	})
}
