// Package daemonize puts a daemon into the background. Go cannot fork, so the program starts itself again: in a session of its own, in the
// root folder, without a terminal, and with the same arguments. The one in the foreground waits until the other says that it is
// ready, or has ended, and passes on its exit code; until then the other's standard error is still the terminal's, so that people
// see why it did not start.
//
// The functions are for the main goroutine of a program, one call each.
package daemonize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// variable tells the program in the background where to say that it is ready.
const variable = "LODGE_BACKGROUND_FD"

// firstExtra is the number of the first descriptor that os/exec passes on.
const firstExtra = 3

// ErrSlow says that the daemon was neither ready nor ended in time. It goes on.
var ErrSlow = errors.New("daemon is still starting")

// Start starts the program in the background, with arguments behind those of this one, and waits for at most patience. It returns 0
// when it is ready, its exit code when it has ended, and an error that wraps ErrSlow when it is neither.
func Start(patience time.Duration, extra ...string) (code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	defer r.Close()
	path := program()
	// The daemon outlives this program: no context ends it.
	cmd := exec.CommandContext(context.Background(), path)
	cmd.Args = append(append([]string(nil), os.Args...), extra...)
	if strings.Contains(os.Args[0], "/") && path != self {
		cmd.Args[0] = path // a relative one leads nowhere from the root folder, when the daemon starts itself again
	}
	cmd.Env = append(os.Environ(), variable+"="+strconv.Itoa(firstExtra))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, fmt.Errorf("start in the background: %w", err)
	}
	n, err := r.Read(make([]byte, 1))
	switch {
	case n == 1:
		return 0, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, fmt.Errorf("wait for process %d for %v: %w", cmd.Process.Pid, patience, ErrSlow)
	}
	// It has closed its end without a word: it has ended, or does at once.
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err == nil {
		err = errors.New("it has ended without a reason")
	}
	return 0, fmt.Errorf("start in the background: %w", err)
}

// self is this program, even if its file was replaced or removed.
const self = "/proc/self/exe"

// program is the path by which this program was started, if it still leads to it, so that people find the process under that name.
func program() string {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return self
	}
	ours, err := os.Stat(self)
	if err != nil {
		return self
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(ours, named) {
		return self
	}
	return path
}

// Background is a program that Start has started.
type Background struct {
	ready *os.File
}

// Inside reports whether Start has started this program, and how to tell it. It is called before anything is started that inherits
// the environment.
func Inside() (*Background, bool) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return nil, false
	}
	os.Unsetenv(variable)
	fd, err := strconv.Atoi(text)
	if err != nil || fd < firstExtra {
		return nil, false
	}
	unix.CloseOnExec(fd)
	return &Background{ready: os.NewFile(uintptr(fd), "background")}, true
}

// Ready says that the daemon is ready, and lets go of the terminal: from now on its standard descriptors lead nowhere.
func (b *Background) Ready() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("let go of the terminal: %w", err)
	}
	defer null.Close()
	for fd := range firstExtra {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("let go of the terminal: %w", err)
		}
	}
	_, err = b.ready.Write([]byte{1})
	if errors.Is(err, unix.EPIPE) {
		err = nil // nobody waits any more
	}
	return errors.Join(err, b.ready.Close())
}
