package rig

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// probeEnv names the file that a process started as a probe watches.
const probeEnv = "LODGE_RIG_PROBE"

// probeEvery is the pause between two looks at the lock.
const probeEvery = 200 * time.Microsecond

// Probe watches the lock on a file from a process of its own, by asking the kernel over and over whether it could have the lock. It never
// takes the lock, so it disturbs nobody.
type Probe struct {
	cmd   *exec.Cmd
	stdin io.Closer

	mu   sync.Mutex
	gaps []Gap
	last string
	done chan struct{}
}

// Gap is a time in which the lock could have been had.
type Gap struct {
	From time.Time
	// To is when the lock was held again; it is zero if that was not seen.
	To time.Time
}

// String tells when the gap began and how long it was.
func (g Gap) String() string {
	if g.To.IsZero() {
		return g.From.Format(time.RFC3339Nano) + " for good"
	}
	return fmt.Sprintf("%s for %v", g.From.Format(time.RFC3339Nano), g.To.Sub(g.From))
}

// RunProbe turns this process into a probe if it was started as one, and then does not return. A program or test binary that
// uses StartProbe calls it first of all.
func RunProbe() {
	path := os.Getenv(probeEnv)
	if path == "" {
		return
	}
	if err := probe(path); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// probe prints "free TIME" whenever the lock comes free, "held TIME" when it is held again, and "looked N" at the end, which comes when
// standard input is closed.
func probe(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open lock file: %w", err)
	}
	defer file.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin) // An error ends the probe as the end of the input does.
	}()
	fmt.Println("ready")
	looks, wasFree := 0, false
	for {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
			return fmt.Errorf("look at lock: %w", err)
		}
		looks++
		free := lock.Type == unix.F_UNLCK
		if free != wasFree {
			fmt.Println(map[bool]string{true: "free", false: "held"}[free], time.Now().Format(time.RFC3339Nano))
		}
		wasFree = free
		select {
		case <-ended:
			fmt.Println("looked", looks)
			return nil
		case <-time.After(probeEvery):
		}
	}
}

// StartProbe starts a probe of the lock on a file and returns once it looks.
func StartProbe(ctx context.Context, path string) (*Probe, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), probeEnv+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start lock probe: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start lock probe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start lock probe: %w", err)
	}
	p := &Probe{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "ready" {
		_, _, _ = p.Stop()
		return nil, fmt.Errorf("start lock probe: %q", lines.Text())
	}
	go func() {
		defer close(p.done)
		for lines.Scan() {
			p.note(lines.Text())
		}
	}()
	return p, nil
}

// note keeps a line of the probe's output.
func (p *Probe) note(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = line
	what, text, _ := strings.Cut(line, " ")
	when, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil:
	case what == "free":
		p.gaps = append(p.gaps, Gap{From: when})
	case len(p.gaps) > 0:
		p.gaps[len(p.gaps)-1].To = when
	}
}

// Free returns the times in which the lock was free so far.
func (p *Probe) Free() []Gap {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.gaps)
}

// Stop ends the probe and returns how often it has looked, and when the lock was free.
func (p *Probe) Stop() (looks int, free []Gap, err error) {
	_ = p.stdin.Close() // The probe ends by it; if it has ended already, Wait says so.
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
	}
	if err := p.cmd.Wait(); err != nil {
		return 0, p.Free(), fmt.Errorf("lock probe: %s: %w", p.last, err)
	}
	if _, err := fmt.Sscanf(p.last, "looked %d", &looks); err != nil {
		return 0, p.Free(), fmt.Errorf("lock probe said %q: %w", p.last, err)
	}
	return looks, p.Free(), nil
}
