package lockclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

// The test binary is also a daemon, as this variable says.
const roleVariable = "LOCKCLIENT_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "daemon" {
		if err := daemon(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// daemon serves locks in a folder until it is interrupted.
func daemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f, err := os.OpenFile(filepath.Join(dir, "pid"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "sock"))
	s, err := openService(dir)
	if err != nil {
		return err
	}
	return s.serve(ctx)
}

// service is a server on a folder's socket and journal.
type service struct {
	table  *leases.Table
	server *lockserver.Server
	hub    *hub.Hub
}

func openService(dir string) (*service, error) {
	table, err := leases.Open(filepath.Join(dir, "journal"), hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sock"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener, err := hub.FromNet(l, true)
	if err != nil {
		return nil, err
	}
	h, err := hub.New(hclog.NewNullLogger(), nil)
	if err != nil {
		return nil, err
	}
	server := lockserver.New(lockserver.Config{Hub: h, Table: table, Log: hclog.NewNullLogger(), Version: "test"})
	return &service{table: table, server: server, hub: h}, server.Listen(listener)
}

func (s *service) serve(ctx context.Context) error {
	err := s.hub.Run(ctx)
	s.server.Close()
	return errors.Join(err, s.table.Close())
}

// serve runs a service in this process and returns its end, which is also that of the test.
func serve(t *testing.T, dir string) (stop func()) {
	t.Helper()
	s, err := openService(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

// client returns a client of the socket in a folder.
func client(t *testing.T, dir string) *Client {
	t.Helper()
	c := New(filepath.Join(dir, "sock"))
	t.Cleanup(c.Close)
	return c
}

// mute is a daemon that takes connections and never answers. It returns how many connections there have been.
func mute(t *testing.T, dir string) (count func() int) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		done.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	return func() int { mu.Lock(); defer mu.Unlock(); return len(conns) }
}

// refuse is a daemon that knows no procedure.
func refuse(t *testing.T, dir string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r, w := rpc.NewReader(conn, rpc.ReaderConfig{}), rpc.NewWriter(conn, patience)
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			unknown := verr.New(verr.RPC, "unknown procedure: %d", f.Procedure)
			payload, err := rpc.NewError(unknown, verr.FromRPC).Append(nil)
			if err != nil || w.Send(f.Answer(rpc.Failed), payload) != nil {
				return
			}
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
}

func guest(n byte, generation uint64) Owner {
	return Owner{UUID: uuid.UUID{n}, Name: fmt.Sprint("guest", n), ID: uint32(n), Generation: generation}
}

// disks returns the locks of n disks in a lockspace.
func disks(dir string, n int) []lockspace.Resource {
	out := make([]lockspace.Resource, n)
	for i := range out {
		out[i] = lockspace.ForDisk(filepath.Join(dir, "locks"), fmt.Sprint("/images/", i), lockspace.Exclusive)
	}
	return out
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

// descriptors counts the open descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
