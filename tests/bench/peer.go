package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peer is real libvirtd, inside a jail.
type peer struct {
	path string
	dir  string

	jail    *exec.Cmd
	control io.WriteCloser
	answers *bufio.Scanner
	pid     int
}

func newPeer(path, dir string) *peer { return &peer{path: path, dir: dir} }

func (p *peer) name() string   { return "libvirtd" }
func (p *peer) socket() string { return filepath.Join(p.dir, "run", "libvirt-sock") }
func (p *peer) uri() string    { return "qemu:///system" }

// settle has nothing to wait for: libvirtd is one process, and up when it answers.
func (p *peer) settle(context.Context) error { return nil }

func (p *peer) pids() []int {
	if p.pid == 0 {
		return nil
	}
	return []int{p.pid}
}

func (p *peer) launch(ctx context.Context) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	answer, err := p.order("start " + p.path)
	if err != nil {
		return err
	}
	p.pid, err = strconv.Atoi(answer)
	if err != nil {
		return fmt.Errorf("start libvirtd: answer %q", answer)
	}
	return nil
}

func (p *peer) stop(context.Context) error { return p.end("stop") }
func (p *peer) kill(context.Context) error { return p.end("kill") }

// end ends libvirtd if it runs.
func (p *peer) end(how string) error {
	if p.pid == 0 {
		return nil
	}
	p.pid = 0
	_, err := p.order(how)
	return err
}

func (p *peer) seed(ctx context.Context, n int) error {
	if err := errors.Join(p.enter(ctx), p.stop(ctx)); err != nil {
		return err
	}
	return writeDefinitions(filepath.Join(p.dir, "etc", "qemu"), n)
}

func (p *peer) close() error {
	if p.jail == nil {
		return os.RemoveAll(p.dir)
	}
	p.pid = 0
	_ = p.control.Close() // The jail ends everything when its input ends.
	return errors.Join(p.jail.Wait(), os.RemoveAll(p.dir))
}

// enter starts the jail once.
func (p *peer) enter(ctx context.Context) error {
	if p.jail != nil {
		return nil
	}
	if err := p.prepare(ctx); err != nil {
		return err
	}
	// The jail ends by its input, so that it can clean up.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", "-jail", p.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setpgid: true}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start jail: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start jail: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start jail: %w", err)
	}
	p.jail, p.control, p.answers = cmd, in, bufio.NewScanner(out)
	_, err = p.order("ready")
	return err
}

// prepare makes the folders that the jail puts in the place of libvirt's own, with a copy of its configuration.
func (p *peer) prepare(ctx context.Context) error {
	for _, place := range jailPlaces {
		if err := os.MkdirAll(filepath.Join(p.dir, place.name), 0o755); err != nil {
			return fmt.Errorf("make folders of libvirtd: %w", err)
		}
	}
	etc := filepath.Join(p.dir, "etc")
	if out, err := exec.CommandContext(ctx, "cp", "-a", "/etc/libvirt/.", etc).CombinedOutput(); err != nil {
		return fmt.Errorf("copy configuration of libvirtd: %w: %s", err, out)
	}
	// Its own networks and definitions stay out of the measurement.
	return errors.Join(os.RemoveAll(filepath.Join(etc, "qemu")), os.Mkdir(filepath.Join(etc, "qemu"), 0o700))
}

// order sends a line to the jail and returns its answer.
func (p *peer) order(line string) (string, error) {
	if _, err := fmt.Fprintln(p.control, line); err != nil {
		return "", fmt.Errorf("tell jail to %s: %w", line, err)
	}
	if !p.answers.Scan() {
		return "", fmt.Errorf("tell jail to %s: it has ended", line)
	}
	answer, ok := strings.CutPrefix(p.answers.Text(), "ok ")
	if !ok {
		return "", fmt.Errorf("tell jail to %s: %s", line, p.answers.Text())
	}
	return answer, nil
}

// jailPlace is one of libvirt's folders and what stands in for it.
type jailPlace struct{ name, real string }

var jailPlaces = []jailPlace{
	{"etc", "/etc/libvirt"},
	{"run", "/run/libvirt"},
	{"lib", "/var/lib/libvirt"},
	{"cache", "/var/cache/libvirt"},
	{"log", "/var/log/libvirt"},
}

// endWait bounds the wait for the end of libvirtd, whose memory takes the kernel a while to free on a busy machine.
const endWait = time.Minute

// jail is the parent of libvirtd: it lives in its own mount namespace and is the subreaper of all that is started in it.
type jail struct {
	dir    string
	daemon int
}

// runJail obeys the lines of its input until it ends, and then ends all of its children.
func runJail(dir string, in io.Reader, out io.Writer) error {
	j := &jail{dir: dir}
	if err := j.enter(); err != nil {
		return err
	}
	defer j.clear()
	if _, err := j.spawn("virtlogd"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		answer, err := j.obey(verb, arg)
		if err != nil {
			fmt.Fprintln(out, "error", err)
			continue
		}
		fmt.Fprintln(out, "ok", answer)
	}
	return nil
}

// enter puts the jail's folders in the place of libvirt's own.
func (j *jail) enter() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, place := range jailPlaces {
		// An empty folder that is made here is all that is seen of this outside.
		if err := os.MkdirAll(place.real, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(filepath.Join(j.dir, place.name), place.real, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", place.real, err)
		}
	}
	for _, sub := range []string{"images", "qemu", "boot", "dnsmasq", "network", "swtpm"} {
		if err := os.MkdirAll(filepath.Join("/var/lib/libvirt", sub), 0o755); err != nil {
			return fmt.Errorf("make folder of libvirtd: %w", err)
		}
	}
	return nil
}

// obey carries out one order.
func (j *jail) obey(verb, arg string) (string, error) {
	var err error
	switch verb {
	case "ready":
	case "start":
		j.daemon, err = j.spawn(arg)
		return strconv.Itoa(j.daemon), err
	case "stop":
		err = j.end(unix.SIGTERM)
	case "kill":
		err = j.end(unix.SIGKILL)
	default:
		err = fmt.Errorf("unknown order %q", verb)
	}
	return "done", err
}

// spawn starts a daemon in the foreground; the jail reaps it with everything else.
func (j *jail) spawn(path string) (int, error) {
	name := filepath.Base(path)
	log, err := os.OpenFile(filepath.Join(j.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	// The daemon is ended by an order or when the jail is cleared.
	cmd := exec.CommandContext(context.Background(), path, "-p", filepath.Join(j.dir, name+".pid"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	// Orphans become this process's children, so all are reaped alike and not by cmd.Wait.
	go j.reap()
	return cmd.Process.Pid, nil
}

// reap waits for children until there is none.
func (j *jail) reap() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// end signals the daemon and waits until it has gone.
func (j *jail) end(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(j.daemon, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open daemon: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal daemon: %w", err)
	}
	for deadline := time.Now().Add(endWait); time.Now().Before(deadline); {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 1000)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the daemon's end: %w", err)
		}
	}
	return errors.Join(errors.New("the daemon does not end"), unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
}

// clear ends whatever is left in the jail: children are the daemons and, orphaned, the guests.
func (j *jail) clear() {
	for range 250 {
		left := children()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // A child that has ended meanwhile is what is wanted.
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// children lists this process's children: the kernel keeps a list for each thread that has made or adopted some.
func children() []int {
	lists, err := filepath.Glob("/proc/self/task/*/children")
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
