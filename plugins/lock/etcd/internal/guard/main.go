package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
)

// Command is the hidden sub-command that is the guard.
const Command = "guard"

// Files in the folder: the page, the socket on which the guard listens, and the file that it locks.
const (
	PageFile   = "lease"
	socketFile = "guard.sock"
	lockFile   = "guard.lock"
)

// processName is what the guard's command line begins with.
const processName = "lodge-etcd-guard"

// Descriptors that the guard is started with.
const (
	lockFD     = 3
	listenerFD = 4
)

// Main is the guard's process: its arguments are the folder and how long it stays without a guest. It returns the exit status.
func Main(args []string) int {
	// Nothing that ends a terminal's or a daemon's processes is to end the guard.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	log := hclog.New(&hclog.LoggerOptions{Name: Command, Level: hclog.Info, Output: os.Stderr})
	if err := run(args, log); err != nil {
		log.Error("guard fails", "error", err)
		return 1
	}
	return 0
}

func run(args []string, log hclog.Logger) error {
	if len(args) != 2 {
		return errors.New("the guard is started by the plugin, with a folder and a duration")
	}
	linger, err := time.ParseDuration(args[1])
	if err != nil {
		return fmt.Errorf("read how long to stay: %w", err)
	}
	lock := os.NewFile(lockFD, lockFile)
	defer func() { _ = lock.Close() }() // this is what frees it
	if err := writePID(lock, os.Getpid()); err != nil {
		return err
	}
	socket := os.NewFile(listenerFD, socketFile)
	l, err := net.FileListener(socket)
	if err := errors.Join(err, socket.Close()); err != nil {
		return fmt.Errorf("take the listener over: %w", err)
	}
	// It was executed through /proc, whose "exe" would be its name for ps otherwise. Only people look at it.
	_ = os.WriteFile("/proc/self/comm", []byte("lodge-etcdguard"), 0)
	harden(log)
	g, err := New(args[0], log, linger)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer g.Close()
	log.Info("guard begins", "process", os.Getpid(), "folder", args[0])
	return g.Run(context.Background(), l)
}

// harden keeps the guard alive and awake when the machine has too little memory: as far as this user may.
func harden(log hclog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		log.Debug("guard may be ended when memory is short", "error", err)
	}
	if os.Geteuid() != 0 {
		return // the limit of locked memory would make every allocation fail
	}
	const onFault = 4 // MCL_ONFAULT: pages are kept once they are used, and not all that might be
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | onFault); err != nil {
		log.Debug("guard may be paged out", "error", err)
	}
}

// writePID writes down who holds the lock.
func writePID(lock *os.File, pid int) error {
	start, err := boot.StartTime(int32(pid))
	if err != nil {
		return err
	}
	if _, err := lock.WriteAt(fmt.Appendf(nil, "%-10d %-20d\n", pid, start), 0); err != nil {
		return fmt.Errorf("write down the guard's process: %w", err)
	}
	return nil
}

// readPID reads what writePID has written.
func readPID(lock *os.File) (pid int32, start uint64, err error) {
	text := make([]byte, 64)
	n, _ := lock.ReadAt(text, 0)
	return parsePID(string(text[:n]))
}

func parsePID(text string) (pid int32, start uint64, err error) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("%q is no process and its start", text)
	}
	n, err := strconv.ParseInt(fields[0], 10, 32)
	if err != nil || n < 2 {
		return 0, 0, fmt.Errorf("%q is no process", fields[0])
	}
	start, err = strconv.ParseUint(fields[1], 10, 64)
	return int32(n), start, err
}

// spawn starts the guard's process, which inherits lock and listener.
func spawn(dir string, linger time.Duration, lock, listener *os.File) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	p, err := os.StartProcess("/proc/self/exe", []string{processName, Command, dir, linger.String()}, &os.ProcAttr{
		Dir: "/", Env: environment(), Files: []*os.File{null, os.Stderr, os.Stderr, lockFD: lock, listenerFD: listener},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start the guard: %w", err)
	}
	pid = p.Pid
	_ = p.Release() // it is nobody's child; Post reaps it if it dies while its parent lives
	return pid, writePID(lock, pid)
}

// environment is what of the plugin's own the guard gets.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != handshake.CookieKey && name != handshake.FailpointsKey {
			env = append(env, v)
		}
	}
	return env
}

// listen makes the guard's socket anew.
func listen(dir string) (*os.File, error) {
	path := filepath.Join(dir, socketFile)
	if len(path) > handshake.MaxSocketPath {
		return nil, fmt.Errorf("path of socket %q has %d bytes, the system allows %d", path, len(path), handshake.MaxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the plugin: %w", err)
	}
	l.SetUnlinkOnClose(false) // it lives on in the guard
	f, err := l.File()
	return f, errors.Join(err, l.Close())
}
