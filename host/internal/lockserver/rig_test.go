package lockserver_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if socket := os.Getenv(roleVariable); socket != "" {
		letGo(socket, os.Args[1], os.Args[2])
	}
	goleak.VerifyTestMain(m)
}

// rig is a server with its table.
type rig struct {
	*lockserver.Server
	table  *leases.Table
	log    *journal
	socket string
	dir    string
	stop   func()
}

// journal keeps what a server logs.
type journal struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, line...)
	return len(line), nil
}

// has reports whether a line has been logged that matches.
func (j *journal) has(line *regexp.Regexp) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return line.Match(j.text)
}

// serve runs a server until the test ends, and returns its socket and table.
func serve(t *testing.T) (string, *leases.Table) {
	t.Helper()
	r := newRig(t)
	return r.socket, r.table
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir(), log: &journal{}}
	var err error
	if r.table, err = leases.Open(filepath.Join(r.dir, "journal"), hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	r.socket = filepath.Join(r.dir, "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := hub.FromNet(l, true)
	if err != nil {
		t.Fatal(err)
	}
	h, err := hub.New(hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = lockserver.New(lockserver.Config{
		Hub: h, Table: r.table, Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: r.log}), Version: "test", MaxClients: 32,
	})
	if err := r.Listen(listener); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
		r.Server.Close()
		if err := r.table.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// caller is a client that sends what it is told.
type caller struct {
	conn   net.Conn
	reader *rpc.Reader
	writer *rpc.Writer
	serial uint32
}

func dial(socket string) (*caller, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return &caller{
		conn: conn, reader: rpc.NewReader(conn, rpc.ReaderConfig{FDs: rpc.MaxFDs}), writer: rpc.NewWriter(conn, patience),
	}, nil
}

func mustDial(t *testing.T, socket string) *caller {
	t.Helper()
	c, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// verdict is a code and a domain of libvirt's errors, or zero.
type verdict struct{ code, domain int32 }

func (v verdict) String() string { return fmt.Sprintf("%d/%d", v.code, v.domain) }

// call sends a call of any program and returns the verdict.
func (c *caller) call(program uint32, procedure int32, args any) (verdict, error) {
	payload, ok := args.([]byte)
	if !ok {
		var err error
		if payload, err = xdr.Append(nil, args); err != nil {
			return verdict{}, err
		}
	}
	h := rpc.Header{Program: program, Version: 1, Procedure: procedure, Serial: c.serial}
	c.serial++
	if err := c.writer.Send(h, payload); err != nil {
		return verdict{}, err
	}
	f, err := c.reader.Next()
	if err != nil {
		return verdict{}, err
	}
	if f.Serial != h.Serial || f.Program != program || f.Procedure != procedure || f.Type != rpc.Reply {
		return verdict{}, fmt.Errorf("reply %+v to %+v", f.Header, h)
	}
	if f.Status == rpc.OK {
		return verdict{}, nil
	}
	e, err := rpc.ParseError(f.Payload)
	if err != nil {
		return verdict{}, err
	}
	if e.Level != rpc.LevelError || e.Dom != nil || e.Net != nil || e.Message == nil || *e.Message == "" {
		return verdict{}, fmt.Errorf("error %+v", e)
	}
	return verdict{e.Code, e.Domain}, nil
}

// sleeper starts a process that an owner can name, and returns its pid.
func sleeper(t *testing.T) uint32 {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return uint32(cmd.Process.Pid)
}

// eventually waits for something that happens by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for give := time.Now().Add(patience); !ok(); {
		if time.Now().After(give) {
			t.Fatal(what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func register(pid uint32) *lockproto.RegisterArgs {
	return &lockproto.RegisterArgs{UUID: [16]byte{byte(pid)}, Name: "guest", ID: pid, PID: pid}
}
