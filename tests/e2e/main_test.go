package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
)

// Connections of the drivers under test.
const (
	testURI = "test:///default"
	qemuURI = "qemu:///system"
)

// built are the daemons under test.
var built = rig.Binaries{Root: filepath.Join("..", "..")}

func TestMain(m *testing.M) {
	rig.RunProbe()
	code := m.Run()
	built.Close()
	os.Exit(code)
}

// config is the configuration of hosts under test: daemons are killed far more often here than a sane host would bear.
const config = `log_level = "debug"
[plugins]
max_crashes_per_minute = 100000
`

// newHost prepares a private host, which is ended with the test.
func newHost(t *testing.T) *rig.Host {
	t.Helper()
	if testing.Short() {
		t.Skip("starts daemons")
	}
	bin, err := built.Dir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "le")
	if err != nil {
		t.Fatal(err)
	}
	h := &rig.Host{Dir: dir, Bin: bin}
	t.Cleanup(func() {
		end := h.Close
		if t.Failed() {
			t.Logf("the host said at last:\n%s", rig.Tail(h.LogFile()))
			if os.Getenv("LODGE_KEEP") != "" {
				t.Logf("its folder is kept: %s", h.Dir)
				end = h.End
			}
		}
		if err := end(); err != nil {
			t.Errorf("end the host: %v", err)
		}
	})
	conf := filepath.Join(dir, "etc")
	if err := errors.Join(os.MkdirAll(conf, 0o755), os.WriteFile(filepath.Join(conf, "lodge.toml"), []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	return h
}

// startHost starts a private host, which is ended with the test.
func startHost(t *testing.T) *rig.Host {
	t.Helper()
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// startSettledHost starts a host and waits until its daemons are up, so that its descriptors can be counted.
func startSettledHost(t *testing.T) *rig.Host {
	t.Helper()
	h := startHost(t)
	eventually(t, answerWait, func() error {
		status, err := h.Status(t.Context())
		if err != nil {
			return err
		}
		if !status.GetLockdReady() {
			return errors.New("the lock daemon is not up")
		}
		for _, plugin := range status.GetPlugins() {
			// What serves no connection starts when somebody needs it, here nobody.
			asleep := plugin.GetState() == "verified" && len(plugin.GetUris()) == 0
			if plugin.GetState() != "ready" && !asleep {
				return fmt.Errorf("plugin %s is %s", plugin.GetName(), plugin.GetState())
			}
		}
		return nil
	})
	return h
}

// need skips the test if a command is not installed.
func need(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("%s is not installed (make deps)", c)
		}
	}
}

// virsh runs virsh and fails the test if it fails.
func virsh(t *testing.T, h *rig.Host, uri string, args ...string) string {
	t.Helper()
	out, err := h.Virsh(t.Context(), uri, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// virshLoud runs virsh with all that it says to a person; Host.Virsh leaves out the pleasantries.
func virshLoud(t *testing.T, h *rig.Host, uri string, args ...string) (string, error) {
	t.Helper()
	return rig.Run(t.Context(), "virsh", append([]string{"-c", h.URI(uri)}, args...)...)
}

// write writes a file into a folder of the test and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits until a condition holds, and fails the test with what was last said about it if it does not.
func eventually(t *testing.T, patience time.Duration, holds func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
