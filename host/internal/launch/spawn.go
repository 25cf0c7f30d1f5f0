package launch

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// spawn forks and executes the binary's descriptor, and returns the process with the read end of its standard output.
func spawn(cfg Config, env []string) (*Process, *os.File, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, fmt.Errorf("open standard input: %w", err)
	}
	defer func() { _ = null.Close() }()
	stderr, err := os.OpenFile(cfg.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open standard error: %w", err)
	}
	defer func() { _ = stderr.Close() }()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make standard output: %w", err)
	}
	defer func() { _ = in.Close() }()
	pid, pidfd, err := fork(cfg, env, []uintptr{null.Fd(), in.Fd(), stderr.Fd()})
	if err != nil {
		_ = out.Close()
		return nil, nil, err
	}
	p, err := newProcess(pid, pidfd, cfg)
	if err != nil {
		_ = out.Close()
		return nil, nil, err
	}
	go func() { // go-plugin does not close what it reads from
		<-p.ended
		_ = out.Close()
	}()
	return p, out, nil
}

func fork(cfg Config, env []string, files []uintptr) (pid, pidfd int, err error) {
	pidfd = -1
	raw, err := cfg.Binary.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("execute: %w", err)
	}
	var ferr error
	err = raw.Control(func(fd uintptr) {
		pid, ferr = syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{cfg.Path}, cfg.Args...), &syscall.ProcAttr{
			Dir: "/", Env: env, Files: files,
			Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
	})
	if err = errors.Join(err, ferr); err != nil {
		return 0, 0, fmt.Errorf("execute %q: %w", cfg.Path, err)
	}
	return pid, pidfd, nil
}

// newProcess takes charge of a child that was just forked; after an error, it is gone.
func newProcess(pid, pidfd int, cfg Config) (*Process, error) {
	if pidfd < 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, errors.New("execute: this kernel has no pidfd, Linux 5.4 is needed")
	}
	start, err := procfs.StartTime(pid)
	if err == nil && cfg.OpenFiles > 0 {
		limit := unix.Rlimit{Cur: cfg.OpenFiles, Max: cfg.OpenFiles}
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("prepare process %d: %w", pid, err)
	}
	p := &Process{
		record: Record{
			Name: cfg.Name, PID: pid, StartTime: start, BootID: bootID(), Generation: cfg.Generation,
		},
		dir: cfg.Dir, child: true, exited: make(chan struct{}), ended: make(chan struct{}),
	}
	p.adopt(pidfd)
	return p, nil
}

// adopt starts to watch through a pidfd.
func (p *Process) adopt(pidfd int) {
	_ = unix.SetNonblock(pidfd, true) // lets the runtime's poller wait for it
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	go p.watch()
}

// reap collects a child that has exited, and says how. Its pid is not used again before that.
func reap(pid int) string {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err != nil {
		return "ended"
	}
	if ws.Signaled() {
		return fmt.Sprintf("signal %s", unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
