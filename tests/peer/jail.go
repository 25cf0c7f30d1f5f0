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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// jailEnv names the folder of a process that is started as a jail.
const jailEnv = "LODGE_PEER_JAIL"

// closeWait bounds the wait for the end of a jail.
const closeWait = time.Minute

// Place is a folder that stands in for another one in a jail.
type Place struct {
	// Source is the folder outside.
	Source string `json:"source"`
	// Target is where it is seen inside; it is made if it is missing.
	Target string `json:"target"`
}

// order is what a jail is told in a line of JSON.
type order struct {
	Verb   string         `json:"verb"`
	Places []Place        `json:"places,omitempty"`
	Log    string         `json:"log,omitempty"`
	Args   []string       `json:"args,omitempty"`
	PID    int            `json:"pid,omitempty"`
	Signal syscall.Signal `json:"signal,omitempty"`
}

// answer is what it says to an order.
type answer struct {
	PID    int    `json:"pid,omitempty"`
	Output string `json:"output,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Jail is a jail that was entered.
type Jail struct {
	dir    string
	cmd    *exec.Cmd
	close  sync.Once
	closed error

	mu      sync.Mutex
	control io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

// Enter starts a jail whose logs go to a folder, and puts places in it. It needs root.
func Enter(ctx context.Context, dir string, places ...Place) (*Jail, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("enter jail: %w", err)
	}
	// The jail ends by its input, so that it can clean up.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe")
	cmd.Env = append(os.Environ(), jailEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setpgid: true}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("enter jail: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("enter jail: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("enter jail: %w", err)
	}
	j := &Jail{dir: dir, cmd: cmd, control: in, orders: json.NewEncoder(in), answers: json.NewDecoder(out)}
	if _, err := j.tell(order{Verb: "enter", Places: places}); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// PID is the jail's process.
func (j *Jail) PID() int { return j.cmd.Process.Pid }

// Inside returns the path by which this process sees a file that lies on a mount of the jail's.
func (j *Jail) Inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(j.PID()), "root", path)
}

// Log is the file that the output of what was started under a name goes to.
func (j *Jail) Log(name string) string { return filepath.Join(j.dir, name+".log") }

// Start starts a program, whose output is appended to the log of a name, and returns its process.
func (j *Jail) Start(name string, args ...string) (pid int, err error) {
	a, err := j.tell(order{Verb: "start", Log: name, Args: args})
	return a.PID, err
}

// Run runs a program to its end and returns its output. The error holds it too.
func (j *Jail) Run(args ...string) (string, error) {
	a, err := j.tell(order{Verb: "run", Args: args})
	return a.Output, err
}

// End sends a signal to a process that was started here, and returns once it has ended. A process that has ended is no error.
func (j *Jail) End(pid int, signal syscall.Signal) error {
	_, err := j.tell(order{Verb: "end", PID: pid, Signal: signal})
	return err
}

// Children returns the jail's children: what was started and has not ended, and orphans of that.
func (j *Jail) Children() ([]int, error) {
	if _, err := j.tell(order{Verb: "ready"}); err != nil {
		return nil, err
	}
	return children(j.PID()), nil
}

// tell sends an order and waits for the answer.
func (j *Jail) tell(o order) (answer, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var a answer
	if err := j.orders.Encode(o); err != nil {
		return a, fmt.Errorf("tell jail to %s %v: %w", o.Verb, o.Args, err)
	}
	if err := j.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("tell jail to %s %v: it has ended: %w", o.Verb, o.Args, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s %v in a jail: %s", o.Verb, o.Args, a.Error)
	}
	return a, nil
}

// Close ends everything in the jail. Doing so again changes nothing.
func (j *Jail) Close() error {
	j.close.Do(func() {
		_ = j.control.Close() // The jail ends everything when its input ends.
		timer := time.AfterFunc(closeWait, func() { _ = j.cmd.Process.Kill() })
		defer timer.Stop()
		if err := j.cmd.Wait(); err != nil {
			j.closed = fmt.Errorf("close jail: %w", err)
		}
	})
	return j.closed
}
