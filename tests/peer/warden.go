package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// endWait bounds the wait for the end of a daemon, whose memory takes the kernel a while to free on a busy machine.
	endWait = time.Minute
	// outputMax bounds the output of a program that is run to its end, in bytes.
	outputMax = 64 << 10
)

// RunJail turns this process into a jail if it was started as one, and then does not return.
func RunJail() {
	dir := os.Getenv(jailEnv)
	if dir == "" {
		return
	}
	// What is started in the jail is no jail.
	if err := errors.Join(os.Unsetenv(jailEnv), guard(dir, os.Stdin, os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "jail:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// warden is the process of a jail: the parent of all that was started in it, and of its orphans.
type warden struct {
	dir string

	mu sync.Mutex
	// wards are the processes that were started, until they have been asked about after their end.
	wards map[int]*ward
}

// ward is a process that was started.
type ward struct {
	ended  chan struct{}
	status unix.WaitStatus
}

// guard obeys the lines of its input until it ends, and then ends all children.
func guard(dir string, in io.Reader, out io.Writer) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	w := &warden{dir: dir, wards: map[int]*ward{}}
	defer clearChildren()
	answers := json.NewEncoder(out)
	for orders := json.NewDecoder(in); ; {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		a, err := w.obey(o)
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// obey carries out one order.
func (w *warden) obey(o order) (a answer, err error) {
	switch o.Verb {
	case "ready":
		return a, nil
	case "enter":
		return a, enter(o.Places)
	case "start":
		a.PID, err = w.start(o.Log, o.Args)
		return a, err
	case "run":
		a.Output, err = w.run(o.Args)
		return a, err
	case "end":
		return a, w.end(o.PID, o.Signal)
	}
	return a, errors.New("unknown order")
}

// enter puts places in the jail.
func enter(places []Place) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, p := range places {
		// An empty folder that is made here is all that is seen of this outside.
		if err := os.MkdirAll(p.Target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(p.Source, p.Target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", p.Target, err)
		}
	}
	return nil
}

// start starts a program in the background.
func (w *warden) start(name string, args []string) (int, error) {
	log, err := os.OpenFile(filepath.Join(w.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	pid, _, err := w.spawn(args, log)
	return pid, err
}

// run runs a program to its end.
func (w *warden) run(args []string) (string, error) {
	out, err := os.CreateTemp(w.dir, "output")
	if err != nil {
		return "", fmt.Errorf("make file for output: %w", err)
	}
	defer out.Close()
	defer os.Remove(out.Name())
	pid, ward, err := w.spawn(args, out)
	if err != nil {
		return "", err
	}
	if err := w.await(pid, ward); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(out, 0, outputMax))
	if err != nil {
		return "", fmt.Errorf("read output: %w", err)
	}
	if ward.status != 0 {
		return string(text), fmt.Errorf("ended with status %#x: %s", uint32(ward.status), strings.TrimSpace(string(text)))
	}
	return string(text), nil
}

// spawn starts a program as a ward.
func (w *warden) spawn(args []string, out *os.File) (int, *ward, error) {
	if len(args) == 0 {
		return 0, nil, errors.New("nothing to start")
	}
	// It is ended by an order or when the jail is cleared.
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	// The reaper waits for the lock before it looks for the ward of a process that has ended.
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	pid, started := cmd.Process.Pid, &ward{ended: make(chan struct{})}
	w.wards[pid] = started
	_ = cmd.Process.Release() // It is reaped with the orphans and not by cmd.Wait.
	go w.reap()
	return pid, started, nil
}

// reap waits for children until there is none.
func (w *warden) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		w.mu.Lock()
		if ended := w.wards[pid]; ended != nil {
			ended.status = status
			close(ended.ended)
			delete(w.wards, pid)
		}
		w.mu.Unlock()
	}
}

// end signals a ward and waits until it has ended.
func (w *warden) end(pid int, signal syscall.Signal) error {
	w.mu.Lock()
	target := w.wards[pid]
	var err error
	if target != nil {
		// A ward that is in the table has been reaped just now at the most, so the number is not another one's yet.
		err = unix.Kill(pid, signal)
	}
	w.mu.Unlock()
	if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended, and is about to be taken out of the table
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	if target == nil {
		return nil
	}
	return w.await(pid, target)
}

// await waits until a ward has ended.
func (w *warden) await(pid int, target *ward) error {
	select {
	case <-target.ended:
		return nil
	case <-time.After(endWait):
		return fmt.Errorf("process %d does not end", pid)
	}
}

// clearChildren ends whatever is left in the jail: children are what was started and, orphaned, the guests.
func clearChildren() {
	for range 250 {
		left := children(os.Getpid())
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // A child that has ended meanwhile is what is wanted.
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// children lists a process's children: the kernel keeps a list for each thread that has made or adopted some.
func children(parent int) []int {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		return nil
	}
	var pids []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // The thread has ended; its children have gone to another.
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
