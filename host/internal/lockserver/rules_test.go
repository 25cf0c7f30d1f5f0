package lockserver_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
)

const (
	sharedFlag  = lockproto.ClassicShared
	createFlag  = lockproto.ClassicAutocreate
	unknownFlag = 4
)

// Procedures of virtlockd's program, for short.
const (
	reg      = lockproto.ClassicRegister
	restrict = lockproto.ClassicRestrict
	newSpace = lockproto.ClassicNew
	create   = lockproto.ClassicCreateResource
	remove   = lockproto.ClassicDeleteResource
	acquire  = lockproto.ClassicAcquireResource
	release  = lockproto.ClassicReleaseResource
	ensure   = lockproto.ClassicCreateLockspace
)

// Verdicts that come often.
var (
	fine       = verdict{}
	busy       = verdict{87, 51}
	notOwner   = verdict{1, 51}
	noOwner    = verdict{55, 7}
	denied     = verdict{29, 7}
	badFlags   = verdict{8, 7}
	noSpace    = verdict{1, 7}
	system     = verdict{38, 51}
	systemBare = verdict{38, 0}
	malformed  = verdict{39, 7}
)

// step is one call in virtlockd's program by client a or b, and what comes back.
type step struct {
	client    string
	procedure int32
	args      any
	want      verdict
	// ours is what our daemon says on purpose instead of want, because of the reason.
	ours *verdict
	why  string
}

// otherwise makes a step of one where we know better.
func (s step) otherwise(v verdict, why string) step {
	s.ours, s.why = &v, why
	return s
}

// scene is where the steps of a rule happen.
type scene struct {
	dir, space string
	// one and two are processes of owners, gone is one that has ended.
	one, two, gone uint32
}

func (s *scene) on(name string, flags uint32) *lockproto.ResourceArgs {
	return &lockproto.ResourceArgs{Path: s.space, Name: name, Flags: flags}
}

func (s *scene) path(name string, flags uint32) *lockproto.ResourceArgs {
	return &lockproto.ResourceArgs{Name: name, Flags: flags}
}

// ready registers the clients a and b for the first and the second process, and makes the lockspace known.
func (s *scene) ready() []step {
	return []step{
		{client: "a", procedure: reg, args: register(s.one)},
		{client: "b", procedure: reg, args: register(s.two)},
		{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: s.space}},
	}
}

func (s *scene) owner(change func(*lockproto.RegisterArgs)) *lockproto.RegisterArgs {
	args := register(s.one)
	change(args)
	return args
}

// rules are those of virtlockd's program.
var rules = []struct {
	name  string
	steps func(*scene) []step
}{
	{"before registering only a lockspace can be made", func(s *scene) []step {
		return []step{
			{client: "a", procedure: restrict, args: &lockproto.RestrictArgs{}, want: noOwner},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: s.space}, want: noOwner},
			{client: "a", procedure: create, args: s.on("x", 0), want: noOwner},
			{client: "a", procedure: remove, args: s.on("x", 0), want: noOwner},
			{client: "a", procedure: acquire, args: s.on("x", 0), want: noOwner},
			{client: "a", procedure: release, args: s.on("x", 0), want: noOwner},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: s.space}},
		}
	}},
	{"an owner needs an id and may be another one later", func(s *scene) []step {
		return []step{
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.ID = 0 }), want: noOwner},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.Flags = 1 }), want: badFlags},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.ID, r.Flags = 0, 1 }), want: badFlags},
			{client: "a", procedure: reg, args: register(s.one)},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: s.space}},
			{client: "a", procedure: acquire, args: s.on("x", createFlag)},
			{client: "a", procedure: reg, args: register(s.two)},
			{client: "a", procedure: release, args: s.on("x", 0), want: notOwner},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.Name, r.ID = "another", 99 })},
			{client: "a", procedure: release, args: s.on("x", 0)},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.PID = 0 })},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.PID = 1<<32 - 1 })},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.Name = "" })},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.Name = "\xff\xfe" })},
			{client: "a", procedure: reg, args: s.owner(func(r *lockproto.RegisterArgs) { r.Name = strings.Repeat("n", 65536) })},
			{client: "a", procedure: reg, args: longOwner(65537), want: malformed},
		}
	}},
	{"a restricted connection may do nothing, even to be restricted", func(s *scene) []step {
		return append(s.ready(),
			step{client: "a", procedure: restrict, args: &lockproto.RestrictArgs{Flags: 1}, want: badFlags},
			step{client: "a", procedure: restrict, args: &lockproto.RestrictArgs{}},
			step{client: "a", procedure: reg, args: register(s.one), want: denied},
			step{client: "a", procedure: restrict, args: &lockproto.RestrictArgs{}, want: denied},
			step{client: "a", procedure: newSpace, args: &lockproto.NewArgs{}, want: denied},
			step{client: "a", procedure: create, args: s.on("x", 0), want: denied},
			step{client: "a", procedure: remove, args: s.on("x", 0), want: denied},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag), want: denied},
			step{client: "a", procedure: release, args: s.on("x", 0), want: denied},
			step{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: s.space}, want: denied},
			step{client: "a", procedure: restrict, args: &lockproto.RestrictArgs{Flags: 1}, want: badFlags},
			step{client: "a", procedure: acquire, args: []byte{}, want: malformed},
			step{client: "a", procedure: 77, want: malformed},
			step{client: "b", procedure: acquire, args: s.on("x", createFlag)},
		)
	}},
	{"a lockspace is made once, or whenever it is missing", func(s *scene) []step {
		file, below := filepath.Join(s.dir, "file"), filepath.Join(s.dir, "file", "below")
		lies := "virtlockd says that it has made a lockspace which it has not"
		return []step{
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: filepath.Join(s.dir, "deep", "down")}},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: filepath.Join(s.dir, "deep", "down")}},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{}},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: file}, want: notOwner},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: below}, want: system},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: "/proc/nobody"}, want: system},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: strings.Repeat("/n", 30000)}, want: system},
			{client: "a", procedure: reg, args: register(s.one)},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{}, want: noOwner},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Flags: 1}, want: badFlags},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: s.space, Flags: 1}, want: badFlags},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: s.space}},
			{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: s.space}, want: noSpace},
			{client: "a", procedure: ensure, args: &lockproto.CreateLockspaceArgs{Path: s.space}},
			step{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: file}}.otherwise(notOwner, lies),
			step{client: "a", procedure: newSpace, args: &lockproto.NewArgs{Path: below}}.otherwise(system, lies),
		}
	}},
	{"what is in no lockspace is refused, but for its flags", func(s *scene) []step {
		at := func(flags uint32) *lockproto.ResourceArgs {
			return &lockproto.ResourceArgs{Path: s.dir + "/nowhere", Name: "x", Flags: flags}
		}
		return append(s.ready(),
			step{client: "a", procedure: create, args: at(0), want: noSpace},
			step{client: "a", procedure: remove, args: at(0), want: noSpace},
			step{client: "a", procedure: acquire, args: at(0), want: noSpace},
			step{client: "a", procedure: release, args: at(0), want: noSpace},
			step{client: "a", procedure: create, args: at(1), want: badFlags},
			step{client: "a", procedure: remove, args: at(1), want: badFlags},
			step{client: "a", procedure: acquire, args: at(unknownFlag), want: badFlags},
			step{client: "a", procedure: release, args: at(1), want: badFlags},
		)
	}},
	{"a file can be made and removed as long as nobody has it", func(s *scene) []step {
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.on("x", 0), want: system},
			step{client: "a", procedure: create, args: s.on("x", 0)},
			step{client: "a", procedure: create, args: s.on("x", 0)},
			step{client: "a", procedure: acquire, args: s.on("x", 0)},
			step{client: "b", procedure: create, args: s.on("x", 0), want: busy},
			step{client: "a", procedure: create, args: s.on("x", 0), want: busy},
			step{client: "b", procedure: remove, args: s.on("x", 0), want: busy},
			step{client: "a", procedure: release, args: s.on("x", 0)},
			step{client: "a", procedure: remove, args: s.on("x", 0)},
			step{client: "a", procedure: remove, args: s.on("x", 0)},
			step{client: "a", procedure: acquire, args: s.on("x", 0), want: system},
		)
	}},
	{"a lock is one owner's, and once", func(s *scene) []step {
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.on("x", unknownFlag), want: badFlags},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag|unknownFlag), want: badFlags},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag)},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag), want: busy},
			step{client: "a", procedure: acquire, args: s.on("x", sharedFlag), want: busy},
			step{client: "b", procedure: acquire, args: s.on("x", 0), want: busy},
			step{client: "b", procedure: acquire, args: s.on("x", sharedFlag|createFlag), want: busy},
			step{client: "b", procedure: release, args: s.on("x", 0), want: notOwner},
			step{client: "b", procedure: release, args: s.on("y", 0), want: busy},
			step{client: "a", procedure: release, args: s.on("x", 0)},
			step{client: "a", procedure: release, args: s.on("x", 0), want: busy},
			step{client: "b", procedure: acquire, args: s.on("x", 0), want: system},
			step{client: "b", procedure: acquire, args: s.on("x", createFlag)},
		)
	}},
	{"a shared lock is everybody's, and each has it as often as it was acquired", func(s *scene) []step {
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.on("x", sharedFlag|createFlag)},
			step{client: "a", procedure: acquire, args: s.on("x", sharedFlag)},
			step{client: "b", procedure: acquire, args: s.on("x", sharedFlag|createFlag)},
			step{client: "b", procedure: acquire, args: s.on("x", createFlag), want: busy},
			step{client: "a", procedure: acquire, args: s.on("x", 0), want: busy},
			step{client: "a", procedure: remove, args: s.on("x", 0), want: busy},
			step{client: "a", procedure: release, args: s.on("x", 0)},
			step{client: "a", procedure: release, args: s.on("x", 0)},
			step{client: "a", procedure: release, args: s.on("x", 0), want: notOwner},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag), want: busy},
			step{client: "b", procedure: release, args: s.on("x", 0)},
			step{client: "b", procedure: release, args: s.on("x", 0), want: busy},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag)},
		)
	}},
	{"a lock may be on a path", func(s *scene) []step {
		image, dir := filepath.Join(s.dir, "image"), filepath.Join(s.dir, "folder")
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.path(filepath.Join(s.dir, "missing"), 0), want: system},
			step{client: "a", procedure: acquire, args: s.path(filepath.Join(s.dir, "missing", "too"), createFlag), want: system},
			step{client: "a", procedure: acquire, args: s.path(image, 0)},
			step{client: "b", procedure: acquire, args: s.path(image, 0), want: busy},
			step{client: "b", procedure: remove, args: s.path(image, 0), want: busy},
			step{client: "a", procedure: release, args: s.path(image, 0)},
			step{client: "a", procedure: acquire, args: s.path(dir, 0), want: system},
			step{client: "a", procedure: acquire, args: s.path(dir, createFlag), want: system},
			step{client: "a", procedure: create, args: s.path(dir, 0), want: systemBare},
			step{client: "a", procedure: remove, args: s.path(dir, 0), want: system},
			step{client: "a", procedure: acquire, args: s.path("", 0), want: system},
			step{client: "a", procedure: create, args: s.path("", 0), want: systemBare},
		)
	}},
	{"a lock of another process is busy", func(s *scene) []step {
		locked := filepath.Join(s.dir, "locked")
		spares := "virtlockd removes the file under the other's lock"
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.path(locked, 0), want: busy},
			step{client: "a", procedure: acquire, args: s.path(locked, sharedFlag), want: busy},
			step{client: "a", procedure: acquire, args: s.path(locked, createFlag), want: busy},
			step{client: "a", procedure: create, args: s.path(locked, 0)},
			step{client: "a", procedure: remove, args: s.path(locked, 0)}.otherwise(busy, spares),
		)
	}},
	{"names that lead nowhere", func(s *scene) []step {
		steps := s.ready()
		for _, name := range []string{"", ".", "..", "a/../../x", "/etc/nobody", "missing/x", strings.Repeat("n", 256), strings.Repeat("n", 5000), strings.Repeat("n", 65536)} {
			steps = append(steps,
				step{client: "a", procedure: acquire, args: s.on(name, createFlag), want: system},
				step{client: "a", procedure: acquire, args: s.on(name, 0), want: system},
				step{client: "a", procedure: release, args: s.on(name, 0), want: busy},
				step{client: "a", procedure: create, args: s.on(name, 0), want: systemBare})
		}
		return append(steps, step{client: "a", procedure: acquire, args: longName(65537), want: malformed})
	}},
	{"names that virtlockd makes something of, and we refuse", func(s *scene) []step {
		leads := "the name leads out of its lockspace"
		nul := "the name has a null byte, and virtlockd takes what is before it"
		return append(s.ready(),
			step{client: "a", procedure: acquire, args: s.on("../x", createFlag)}.otherwise(system, leads),
			step{client: "a", procedure: release, args: s.on("../x", 0)}.otherwise(busy, leads),
			step{client: "a", procedure: acquire, args: s.on("a\x00b", createFlag)}.otherwise(malformed, nul),
			step{client: "a", procedure: release, args: s.on("a\x00b", 0)}.otherwise(malformed, nul),
			step{client: "a", procedure: acquire, args: s.on("\xff", createFlag)}.otherwise(system, "the name is no UTF-8"),
			step{client: "a", procedure: acquire, args: s.path("relative", 0), want: system},
		)
	}},
	{"an owner that is gone", func(s *scene) []step {
		dead := "virtlockd keeps the lock for ever"
		return append(s.ready(),
			step{client: "a", procedure: reg, args: register(s.gone)},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag)}.otherwise(system, dead),
			step{client: "b", procedure: acquire, args: s.on("x", createFlag), want: busy}.otherwise(fine, dead),
		)
	}},
	{"what is no call of the program", func(s *scene) []step {
		return append(s.ready(),
			step{client: "a", procedure: 0, want: malformed},
			step{client: "a", procedure: 9, want: malformed},
			step{client: "a", procedure: -1, want: malformed},
			step{client: "a", procedure: acquire, args: []byte{}, want: malformed},
			step{client: "a", procedure: acquire, args: []byte{0, 0, 0, 9, 'x'}, want: malformed},
			step{client: "a", procedure: acquire, args: []byte{0xff, 0xff, 0xff, 0xff}, want: malformed},
			step{client: "a", procedure: reg, args: []byte("short"), want: malformed},
			step{client: "a", procedure: restrict, args: []byte{0, 0}, want: malformed},
			step{client: "a", procedure: acquire, args: s.on("x", createFlag)},
		)
	}},
}

// longOwner and longName are arguments with a string that is longer than the protocol allows.
func longOwner(n int) []byte {
	b := rpc.AppendFrame(nil, rpc.Header{}, nil)[:16]
	b = append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return append(append(b, make([]byte, (n+3)&^3)...), make([]byte, 12)...)
}

func longName(n int) []byte { return append([]byte{0, 0, 0, 0}, longOwner(n)[16:]...) }

// newScene prepares files and processes.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{dir: t.TempDir(), one: sleeper(t), two: sleeper(t)}
	s.space = filepath.Join(s.dir, "locks")
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	s.gone = uint32(gone.Process.Pid)
	for _, name := range []string{"file", "image", "locked"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	holder, err := os.OpenFile(filepath.Join(s.dir, "locked"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Close() })
	if err := unix.FcntlFlock(holder.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRules(t *testing.T) {
	for _, daemon := range []struct {
		name  string
		start func(t *testing.T) (socket string)
		ours  bool
	}{
		{name: "ours", ours: true, start: func(t *testing.T) string { socket, _ := serve(t); return socket }},
		{name: "virtlockd", start: startVirtlockd},
	} {
		t.Run(daemon.name, func(t *testing.T) {
			socket := daemon.start(t)
			for _, rule := range rules {
				t.Run(rule.name, func(t *testing.T) {
					clients := map[string]*caller{"a": mustDial(t, socket), "b": mustDial(t, socket)}
					for i, s := range rule.steps(newScene(t)) {
						want := s.want
						if s.ours != nil && daemon.ours {
							want = *s.ours
						}
						got, err := clients[s.client].call(lockproto.ClassicProgram, s.procedure, s.args)
						if err != nil || got != want {
							t.Errorf("step %d: procedure %d of client %s with %.200s: %v (%v), want %v", i, s.procedure, s.client,
								fmt.Sprintf("%+v", s.args), got, err, want)
						}
					}
				})
			}
		})
	}
}

// startVirtlockd runs libvirt's own daemon.
func startVirtlockd(t *testing.T) (socket string) {
	t.Helper()
	d := virtlockdtest.Start(t)
	d.Dial(t, d.Socket).Close()
	return d.Socket
}

// raw sends bytes on a new connection, and then a call. It returns what came back until the answer to that: the frames' types and
// programs, and whether the connection was closed instead.
func raw(t *testing.T, socket string, b []byte) string {
	t.Helper()
	c := mustDial(t, socket)
	last := rpc.AppendFrame(nil, rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Procedure: 99, Serial: 4711}, nil)
	if _, err := c.conn.Write(append(b, last...)); err != nil {
		return "closed"
	}
	var said []string
	for {
		f, err := c.reader.Next()
		if err != nil {
			return strings.Join(append(said, "closed"), ", ")
		}
		switch {
		case f.Serial == 4711:
			return strings.Join(said, ", ")
		case f.Program == rpc.KeepaliveProgram && f.Type == rpc.Message:
			said = append(said, fmt.Sprint("keepalive ", f.Procedure))
			continue
		}
		e, err := rpc.ParseError(f.Payload)
		if f.Status != rpc.Failed || err != nil {
			said = append(said, "answer")
			continue
		}
		said = append(said, fmt.Sprintf("error %d/%d", e.Code, e.Domain))
		if c := f.Header; c.Procedure != 2 || c.Serial != 1 || c.Type != rpc.Reply {
			said = append(said, fmt.Sprintf("in %+v", c))
		}
	}
}

func TestFramesThatAreNoCalls(t *testing.T) {
	header := func(change func(*rpc.Header)) []byte {
		h := rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Procedure: restrict, Serial: 1}
		change(&h)
		return rpc.AppendFrame(nil, h, []byte{0, 0, 0, 1})
	}
	kind := func(k rpc.Type) []byte { return header(func(h *rpc.Header) { h.Type = k }) }
	keepalive := func(procedure int32, version uint32, k rpc.Type) []byte {
		return rpc.AppendFrame(nil, rpc.Header{
			Program: rpc.KeepaliveProgram, Version: version, Procedure: procedure, Type: k, Serial: 1,
		}, nil)
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, ""},
		{"a call", kind(rpc.Call), "error 8/7"},
		{"a reply", kind(rpc.Reply), ""},
		{"a message", kind(rpc.Message), ""},
		{"a stream", kind(rpc.Stream), ""},
		{"a reply with descriptors", rpc.AppendFrameWithFDs(nil, rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Type: rpc.ReplyWithFDs}, nil, 0), ""},
		{"a hole", kind(rpc.StreamHole), ""},
		{"an unknown type", kind(7), ""},
		{"a call with status 1", header(func(h *rpc.Header) { h.Status = 1 }), "error 39/7"},
		{"a call with status 2", header(func(h *rpc.Header) { h.Status = 2 }), "error 39/7"},
		{"another program", header(func(h *rpc.Header) { h.Program = 1 }), "error 39/7"},
		{"another version", header(func(h *rpc.Header) { h.Version = 2 }), "error 39/7"},
		{"a ping", keepalive(rpc.KeepalivePing, 1, rpc.Message), "keepalive 2"},
		{"a pong", keepalive(rpc.KeepalivePong, 1, rpc.Message), ""},
		{"a keepalive that nobody knows", keepalive(3, 1, rpc.Message), ""},
		{"a ping of another version", keepalive(rpc.KeepalivePing, 2, rpc.Message), ""},
		{"a length below the header", []byte{0, 0, 0, 27}, "closed"},
		{"a length of zero", []byte{0, 0, 0, 0}, "closed"},
		{"a length above the limit", []byte{0x7f, 0, 0, 0}, "closed"},
		{"text", []byte("GET / HTTP/1.1\r\n\r\n"), "closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, _ := serve(t)
			if got := raw(t, ours, c.b); got != c.want {
				t.Errorf("ours says %q, want %q", got, c.want)
			}
			if got := raw(t, startVirtlockd(t), c.b); got != c.want {
				t.Errorf("virtlockd says %q, want %q", got, c.want)
			}
		})
	}
}

func TestConnectionsAboveTheLimitWaitForAnothersEnd(t *testing.T) {
	const limit = 3
	ours := func(t *testing.T) string {
		r := newRig(t)
		r.SetMaxClients(limit)
		return r.socket
	}
	theirs := func(t *testing.T) string {
		virtlockdtest.Need(t)
		conf := filepath.Join(t.TempDir(), "virtlockd.conf")
		if err := os.WriteFile(conf, fmt.Appendf(nil, "max_clients = %d\n", limit), 0o600); err != nil {
			t.Fatal(err)
		}
		return virtlockdtest.Start(t, "-f", conf).Socket
	}
	for name, start := range map[string]func(*testing.T) string{"ours": ours, "virtlockd": theirs} {
		t.Run(name, func(t *testing.T) {
			socket := start(t)
			var all []*caller
			for range limit + 2 {
				var c *caller
				eventually(t, "the daemon does not listen", func() (ok bool) {
					var err error
					c, err = dial(socket)
					return err == nil
				})
				t.Cleanup(func() { c.conn.Close() })
				h := rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Procedure: restrict}
				if err := c.writer.Send(h, []byte{0, 0, 0, 1}); err != nil {
					t.Fatal(err)
				}
				all = append(all, c)
			}
			answered := func(c *caller) bool {
				t.Helper()
				f, err := c.reader.Next()
				return err == nil && f.Status == rpc.Failed
			}
			for i, c := range all[:limit] {
				if !answered(c) {
					t.Fatalf("client %d is not answered", i)
				}
			}
			for i, c := range all[limit:] {
				if waits(t, c) != nil {
					t.Fatalf("client %d above the limit is answered or refused", i)
				}
				all[i].conn.Close()
				if !answered(c) {
					t.Fatalf("client %d is not answered after another's end", i)
				}
			}
		})
	}
}

// waits returns nil if nothing has come for a while, and the connection is still there.
func waits(t *testing.T, c *caller) error {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	raw, err := c.conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var inner error
	err = raw.Control(func(fd uintptr) {
		n, _, inner = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if err != nil || !errors.Is(inner, unix.EAGAIN) {
		return fmt.Errorf("%d bytes came: %w", n, errors.Join(err, inner))
	}
	return nil
}
