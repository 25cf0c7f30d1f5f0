package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

// The test binary is also the daemon, and a prober of locks, as this variable says.
const roleVariable = "LOCKD_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "daemon":
		os.Exit(run(os.Args[0], os.Args[1:], os.Stdout, os.Stderr))
	case "prober":
		probe(os.Args[1])
	case "":
		goleak.VerifyTestMain(m)
	}
}

// probe tries to take the lock on a file without an end, and says so when it had it, or when the file was removed, which only
// who has the lock may do.
func probe(path string) {
	fmt.Println("ready")
	for {
		_, err := lockspace.Take(lockspace.Resource{Name: path})
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			fmt.Println("free")
			os.Exit(0)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// rig is a daemon under a keeper, with a client.
type rig struct {
	*lockclient.Client
	t *testing.T
	// program is what the daemon is started as.
	program string
	dir     string
	spaces  string
	ready   chan lockclient.Status
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOf(t, os.Args[0])
}

// newRigOf is newRig with a program that leads to the test binary.
func newRigOf(t *testing.T, program string) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, dir: dir, program: program, spaces: filepath.Join(dir, "locks"), ready: make(chan lockclient.Status, 64)}
	r.Client = lockclient.New(r.path("sock"))
	t.Cleanup(r.Close)
	t.Setenv(roleVariable, "daemon")
	ctx, cancel := context.WithCancel(context.Background())
	keeper := lockclient.NewKeeper(lockclient.KeeperConfig{
		Client: r.Client, LogFile: r.path("log"), Log: hclog.NewNullLogger(),
		Command: r.command(),
		OnReady: func(_ context.Context, s lockclient.Status) error { r.ready <- s; return nil },
	})
	var done sync.WaitGroup
	done.Go(func() {
		if err := keeper.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("keeper ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		r.signal(os.Interrupt)
	})
	r.next()
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) command() []string {
	return []string{
		r.program, "--socket", r.path("sock"), "--journal", r.path("journal"), "--log-level", "debug",
		"--lockspace-dir", r.spaces,
	}
}

// next waits for a daemon that has not been seen yet.
func (r *rig) next() lockclient.Status {
	r.t.Helper()
	select {
	case s := <-r.ready:
		return s
	case <-time.After(patience):
		r.t.Fatal("no daemon")
	}
	return lockclient.Status{}
}

// signal sends a signal to the daemon that runs now and waits for its end.
func (r *rig) signal(sig os.Signal) {
	text, err := os.ReadFile(r.path("journal.pid"))
	if err != nil {
		return
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return
	}
	id, err := process.Find(int32(pid))
	if err != nil {
		return
	}
	p, err := process.Open(id)
	if err != nil {
		return
	}
	defer p.Close()
	daemon, err := os.FindProcess(pid)
	if err != nil {
		return
	}
	defer func() { _ = daemon.Release() }()
	_ = daemon.Signal(sig)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		r.t.Errorf("daemon does not end: %v", err)
	}
}

func (r *rig) disk(name string, mode lockspace.Mode) lockspace.Resource {
	return lockspace.ForDisk(r.spaces, "/images/"+name, mode)
}

func (r *rig) acquire(o lockclient.Owner, disks ...lockspace.Resource) []lockclient.Lease {
	r.t.Helper()
	got, err := r.Acquire(r.t.Context(), o, disks)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// run starts a guest's process that inherits the leases' descriptors, and tells the daemon.
func (r *rig) run(o lockclient.Owner, got []lockclient.Lease) (guest *exec.Cmd, owner lockclient.Owner) {
	r.t.Helper()
	cmd := exec.Command("sleep", "600")
	for _, l := range got {
		cmd.ExtraFiles = append(cmd.ExtraFiles, l.File)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { end(cmd) })
	forget(got)
	id, err := process.Find(int32(cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	o.PID, o.StartTime = id.PID, id.StartTime
	if err := r.SetProcess(r.t.Context(), o); err != nil {
		r.t.Fatal(err)
	}
	return cmd, o
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func forget(got []lockclient.Lease) {
	for _, l := range got {
		l.File.Close()
	}
}

// prober starts a process that tries to get a lock all the while; wait returns when it had it, and has it no more.
func prober(t *testing.T, path string) (wait func() string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), roleVariable+"=prober")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	timer := time.AfterFunc(5*patience, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	lines := bufio.NewReader(out)
	if line, _ := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("prober said %q", line)
	}
	return func() string {
		line, _ := lines.ReadString('\n')
		end(cmd)
		return strings.TrimSpace(line)
	}
}

func (r *rig) states() map[string]lockclient.State {
	r.t.Helper()
	all, err := r.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]lockclient.State{}
	for _, l := range all {
		out[filepath.Base(l.Resource.Disk)] = l.State
	}
	return out
}

func guest(n byte, generation uint64) lockclient.Owner {
	return lockclient.Owner{UUID: uuid.UUID{n}, Name: fmt.Sprint("guest", n), ID: uint32(n), Generation: generation}
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
