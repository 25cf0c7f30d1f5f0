package locks

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
	"github.com/lodgevirt/lodge/tests/wire"
)

// patience bounds the wait for what must happen.
const patience = 30 * time.Second

// built are the daemons under test.
var built = rig.Binaries{Root: filepath.Join("..", "..")}

func TestMain(m *testing.M) {
	rig.RunProbe()
	peer.RunJail()
	lockd.RunEye()
	lockd.RunOwner()
	runMirror()
	code := m.Run()
	built.Close()
	os.Exit(code)
}

// long skips the test if tests are to be short.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

// binary returns the path of a daemon under test.
func binary(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() && os.Getenv("LODGE_BIN") == "" {
		t.Skip("builds daemons")
	}
	dir, err := built.Dir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// scale is how much is to be done, as a factor.
func scale(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LODGE_LOCKS_SCALE")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LODGE_LOCKS_SCALE is %q, want a whole number from 1 on", text)
	}
	return n
}

// seed is what lots are drawn from.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("LODGE_LOCKS_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LODGE_LOCKS_SEED: %v", err)
		}
	}
	t.Logf("the seed is %d (LODGE_LOCKS_SEED repeats it)", n)
	return n
}

// folder makes a folder with a short path, since sockets lie in it. It is removed with the test, unless that fails and LODGE_KEEP is set.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ll")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("LODGE_KEEP") != "" {
			t.Logf("its folder is kept: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// must fails the test for an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a condition holds, and fails the test with what was last said about it if it does not.
func eventually(t *testing.T, holds func() error) {
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
		time.Sleep(5 * time.Millisecond)
	}
}

// daemon starts our lock daemon with its files in a folder. It is ended with the test.
func daemon(t *testing.T, dir string, args ...string) *lockd.Daemon {
	t.Helper()
	d := &lockd.Daemon{Socket: filepath.Join(dir, "sock"), Log: filepath.Join(dir, "lockd.log")}
	d.Command = append([]string{binary(t, "lodge-lockd"), "--socket", d.Socket, "--log-level", "debug"}, args...)
	t.Cleanup(func() {
		if err := d.End(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon said at last:\n%s", rig.Tail(d.Log))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, d.Start(ctx))
	return d
}

// dial connects to a lock daemon; the connection is closed with the test.
func dial(t *testing.T, socket string) *lockd.Client {
	t.Helper()
	c, err := lockd.Dial(socket)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// watch opens an eye that is closed with the test.
func watch(t *testing.T) *lockd.Eye {
	t.Helper()
	e, err := lockd.Open(t.Context())
	must(t, err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// sleeper starts a process that does nothing, to own locks until a test ends.
func sleeper(t, until *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "sleep", "3600")
	must(t, cmd.Start())
	until.Cleanup(func() { end(cmd) })
	return cmd
}

// end kills a process and reaps it; it may have ended.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
}

// code is the number of a daemon's refusal, 0 for success, and -1 for an error that is no answer.
func code(err error) int {
	var refused *wire.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		return int(refused.Code)
	}
	return -1
}

// reexecute tells a lock daemon to re-execute itself and returns once it has done so.
func reexecute(t *testing.T, pid int) {
	t.Helper()
	must(t, reexecution(pid))
}

// write writes a file.
func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), mode))
	return path
}

// lines joins lines.
func lines(text ...string) string { return strings.Join(text, "\n") + "\n" }
