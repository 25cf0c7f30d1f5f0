package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// gateArgument after StageCommand makes the plugin's binary a guest's process at the gate.
const gateArgument = "gate"

// ErrRegistration says that a guest's process could not make one of its registrations.
var ErrRegistration = errors.New("registration failed")

// gateOrders is what a process at the gate is told first.
type gateOrders struct {
	Path          string         `json:"path"`
	Args          []string       `json:"args"`
	Owner         *Owner         `json:"owner,omitempty"`
	Registrations []Registration `json:"registrations"`
}

// gateWord is what plugin and process tell each other after that: the process that it has registered or that it could not go on,
// the plugin that it may pass.
type gateWord struct {
	Error      string `json:"error,omitempty"`
	Registered bool   `json:"registered,omitempty"`
	Pass       bool   `json:"pass,omitempty"`
}

// maxGateOrders bounds what a process at the gate is told, in bytes.
const maxGateOrders = 16 << 20

// gated reports that the program's process stops at the gate.
func (s *Spec) gated() bool { return len(s.Registrations) > 0 || s.Ready != nil }

// gate is the plugin's side.
type gate struct {
	spec *Spec
	ours *os.File
}

// makeGate adds the process's side to the spec's files, as the last of them. The caller closes both.
func makeGate(spec *Spec) (g *gate, theirs *os.File, err error) {
	if err := checkRegistrations(spec.Registrations); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRegistration, err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make gate: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "gate")
	spec.Files = append(spec.Files[:len(spec.Files):len(spec.Files)], theirs)
	spec.Gate = true
	return &gate{spec: spec, ours: os.NewFile(uintptr(fds[0]), "gate")}, theirs, nil
}

// pass has the process register, asks whether it may go on, and returns when it has become the program.
func (g *gate) pass(ctx context.Context, id ID) error {
	defer context.AfterFunc(ctx, func() { _ = g.ours.SetDeadline(time.Unix(1, 0)) })()
	s := g.spec
	orders, err := json.Marshal(gateOrders{Path: s.Path, Args: s.Args, Owner: s.Owner, Registrations: s.Registrations})
	if err != nil {
		return err
	}
	if len(orders) > maxGateOrders {
		return fmt.Errorf("orders of %d bytes, at most %d are taken", len(orders), maxGateOrders)
	}
	if _, err := g.ours.Write(orders); err != nil {
		return gateError(ctx, err)
	}
	words := json.NewDecoder(io.LimitReader(g.ours, maxReport))
	switch word, err := readWord(words); {
	case err != nil:
		return gateError(ctx, err)
	case !word.Registered:
		return fmt.Errorf("%w: %s", ErrRegistration, word.Error)
	}
	if s.Ready != nil {
		if err := s.Ready(ctx, id); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(g.ours).Encode(gateWord{Pass: true}); err != nil {
		return gateError(ctx, err)
	}
	// Execution closes the other side. It says nothing before, unless it fails.
	switch word, err := readWord(words); {
	case err == nil:
		return errors.New(word.Error)
	case !errors.Is(err, io.EOF):
		return gateError(ctx, err)
	}
	return nil
}

func readWord(words *json.Decoder) (gateWord, error) {
	var word gateWord
	err := words.Decode(&word)
	return word, err
}

// gateError says why there is no answer: the context has ended, or the process has.
func gateError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("process ended at the gate: %w", err)
}

// forkGate starts a process at the gate in place of the program: this binary again, as who we are.
func forkGate(spec *Spec, attr *syscall.ProcAttr) (int, error) {
	control := strconv.Itoa(3 + spec.FileCount - 1)
	const self = "/proc/self/exe"
	pid, err := syscall.ForkExec(self, []string{self, StageCommand, gateArgument, control}, attr)
	if err != nil {
		return 0, fmt.Errorf("execute %s: %w", self, err)
	}
	return pid, nil
}

// atGate is the main function of a process at the gate. It does not return if all goes well. It ends when the plugin hangs up before
// it may pass, wherever it is by then.
func atGate(control string) int {
	fd, err := strconv.Atoi(control)
	if err != nil {
		return 1
	}
	unix.CloseOnExec(fd)
	plugin := os.NewFile(uintptr(fd), "gate")
	words := json.NewDecoder(io.LimitReader(plugin, maxGateOrders+maxReport))
	var orders gateOrders
	if err := words.Decode(&orders); err != nil {
		return 1
	}
	pass := make(chan struct{})
	go func() {
		if word, err := readWord(words); err != nil || !word.Pass {
			os.Exit(1)
		}
		close(pass)
	}()
	fds, err := orders.register()
	if err != nil {
		return say(plugin, gateWord{Error: err.Error()})
	}
	say(plugin, gateWord{Registered: true})
	<-pass
	return say(plugin, gateWord{Error: orders.become(fds).Error()})
}

// say tells the plugin something and returns the exit code of a process that goes no further.
func say(plugin *os.File, word gateWord) int {
	if err := json.NewEncoder(plugin).Encode(word); err != nil {
		os.Exit(1)
	}
	return 1
}

func (o *gateOrders) register() ([]int, error) {
	var fds []int
	for _, r := range o.Registrations {
		fd, err := r.register()
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// become turns this process into the program, with the connections. It returns only with an error.
func (o *gateOrders) become(fds []int) error {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep registration: %w", err)
		}
	}
	if err := o.Owner.become(); err != nil {
		return err
	}
	argv := append([]string{filepath.Clean(o.Path)}, o.Args...)
	return fmt.Errorf("execute %s: %w", o.Path, syscall.Exec(o.Path, argv, os.Environ()))
}

// become makes the process another user's, all of its threads.
func (o *Owner) become() error {
	if o == nil {
		return nil
	}
	groups := make([]int, 0, len(o.Groups))
	for _, g := range o.Groups {
		groups = append(groups, int(g))
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups of guest: %w", err)
	}
	if err := syscall.Setresgid(int(o.GID), int(o.GID), int(o.GID)); err != nil {
		return fmt.Errorf("set group of guest to %d: %w", o.GID, err)
	}
	if err := syscall.Setresuid(int(o.UID), int(o.UID), int(o.UID)); err != nil {
		return fmt.Errorf("set user of guest to %d: %w", o.UID, err)
	}
	return nil
}
