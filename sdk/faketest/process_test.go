package faketest_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// roleKey has the test binary be a plugin.
const roleKey = "LODGE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleKey) == "plugin" {
		plugin.Serve(counter())
	}
	os.Exit(m.Run())
}

// counting is a lock manager that locks nothing: it counts, in the core's state, and remembers its configuration.
type counting struct {
	lock.Manager
	core   plugin.Core
	config map[string]string
}

func counter() plugin.Plugin {
	return plugin.Plugin{
		Name: "counter", Version: "1.0.0",
		LockManager: func(core plugin.Core) (lock.Manager, error) { return &counting{core: core}, nil },
	}
}

// Configure keeps the table.
func (c *counting) Configure(_ context.Context, s plugin.Settings) error {
	if len(s.Config) == 0 {
		return nil
	}
	return json.Unmarshal(s.Config, &c.config)
}

// List tells one lock for each time that it was asked, in a place that is the process and the configuration.
func (c *counting) List(ctx context.Context) ([]*lockv1.Lease, error) {
	before, _, err := c.core.State().Get(ctx, "count")
	if err != nil {
		return nil, err
	}
	now := append(before, '.')
	if err := c.core.State().Put(ctx, "count", now); err != nil {
		return nil, err
	}
	leases := make([]*lockv1.Lease, len(now))
	for i := range leases {
		leases[i] = &lockv1.Lease{Place: c.config["name"], Owner: &lockv1.Owner{Pid: int32(os.Getpid())}}
	}
	return leases, nil
}

// list asks a counter.
func list(t *testing.T, h *faketest.Host) []*lockv1.Lease {
	t.Helper()
	rsp, err := lockv1.NewManagerServiceClient(h.Conn).List(deadline(t), &lockv1.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return rsp.GetLeases()
}

func TestRestartKeepsStateAndFolders(t *testing.T) {
	h := faketest.StartWith(t, counter(), []byte(`{"name": "first"}`))
	if l := list(t, h); len(l) != 1 || l[0].GetPlace() != "first" {
		t.Errorf("at first: %v", l)
	}
	folder := h.Settings.RuntimeDir
	h.Restart(t, counter(), []byte(`{"name": "second"}`))
	if l := list(t, h); len(l) != 2 || l[0].GetPlace() != "second" || h.Settings.RuntimeDir != folder {
		t.Errorf("after a restart: %v", l)
	}
	h.Stop()
	h.Stop()
}

func TestLaunchedPluginMayBeKilled(t *testing.T) {
	command := func() *exec.Cmd {
		cmd := exec.CommandContext(context.Background(), os.Args[0])
		cmd.Env = append(os.Environ(), roleKey+"=plugin")
		return cmd
	}
	h := faketest.Launch(t, []byte(`{"name": "first"}`), command)
	first := list(t, h)
	if len(first) != 1 || first[0].GetOwner().GetPid() != int32(h.Process.Pid) || h.Process.Pid == os.Getpid() {
		t.Errorf("process %d answered %v", h.Process.Pid, first)
	}
	h.Kill()
	h.Relaunch(t, []byte(`{"name": "second"}`), command)
	second := list(t, h)
	if len(second) != 2 || second[0].GetOwner().GetPid() == first[0].GetOwner().GetPid() || second[0].GetPlace() != "second" {
		t.Errorf("after SIGKILL: %v", second)
	}
	h.Shutdown(t)
	if h.Process != nil {
		t.Error("a process that was shut down is there still")
	}
}
