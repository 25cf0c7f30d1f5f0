package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Picture is what one look at every process has found. It is not changed after it was made.
type Picture struct {
	// Marked are the processes that carry a marker.
	Marked []Found
	// claimed are processes without a marker by the UUID, in lower case, of the guest that their arguments name.
	claimed map[string]int
}

// Of returns the processes that carry a marker with the driver and UUID, whatever their generation.
func (p *Picture) Of(driver, uuid string) []Found {
	var found []Found
	for _, f := range p.Marked {
		if f.Marker.Driver == driver && f.Marker.UUID == uuid {
			found = append(found, f)
		}
	}
	return found
}

// Claimed returns a process without a marker of ours whose arguments say that it runs the guest: a QEMU that somebody else started
// with "-uuid". It returns 0 if there is none.
func (p *Picture) Claimed(uuid string) (pid int) { return p.claimed[strings.ToLower(uuid)] }

// Scan looks at every process that it may read: a few milliseconds on a busy host. A child that a marked process has made while
// the scan ran is found even if that process has ended since.
func Scan(ctx context.Context) (*Picture, error) {
	p := &Picture{claimed: map[string]int{}}
	seen := map[int]bool{}
	// The second round finds what was born during the first.
	for range 2 {
		pids, err := processes()
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("find guests: %w", err)
			}
			seen[pid] = p.look(pid)
		}
	}
	return p, nil
}

func processes() ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("find guests: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("find guests: %w", err)
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// A program that is just being executed has neither arguments nor environment for a moment, the longest part of which is to load it.
// Arguments come first, so one that has arguments and no environment most likely never will.
const (
	execTries  = 200
	emptyTries = 3
	execPause  = time.Millisecond
)

// look adds a process, and reports whether it was there.
func (p *Picture) look(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	for try := range execTries {
		if f, ok := Look(pid); ok {
			p.Marked = append(p.Marked, f)
			return true
		}
		cmdline, err := readBounded(filepath.Join(dir, "cmdline"), maxEnviron)
		if err != nil {
			return false
		}
		if len(cmdline) == 0 && !hasProgram(pid) {
			return true
		}
		// Only an environment that is read after the arguments were there is that of the program.
		environ, err := readBounded(filepath.Join(dir, "environ"), maxEnviron)
		_, marked := findMarker(environ)
		if len(cmdline) > 0 && !marked && (len(environ) > 0 || err != nil || try >= emptyTries) {
			if uuid := claim(cmdline); uuid != "" {
				p.claimed[uuid] = pid
			}
			return true
		}
		time.Sleep(execPause)
	}
	return true
}

// hasProgram tells a process from a thread of the kernel and from one that has ended, which have no arguments either.
func hasProgram(pid int) bool {
	_, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	return err == nil
}

// Scanner lets many callers share their scans. The zero value is ready, and all methods are safe concurrently.
type Scanner struct {
	mu      sync.Mutex // guards both
	running *scan
	waiting *scan
}

// scan is one scan, and what became of it once done is closed.
type scan struct {
	done    chan struct{}
	picture *Picture
	err     error
}

// Scan returns a picture of a scan that began after the call. Callers that come while a scan runs share the next one, so any
// number of them at a time costs two.
func (s *Scanner) Scan(ctx context.Context) (*Picture, error) {
	mine := s.join()
	select {
	case <-mine.done:
		return mine.picture, mine.err
	case <-ctx.Done():
		return nil, fmt.Errorf("find guests: %w", ctx.Err())
	}
}

func (s *Scanner) join() *scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		return s.waiting
	}
	mine := &scan{done: make(chan struct{})}
	if s.running != nil {
		s.waiting = mine
		return mine
	}
	s.running = mine
	go s.run(mine)
	return mine
}

// run makes scans until nobody waits for another. It belongs to no caller: one that gives up must not spoil the others' scan.
func (s *Scanner) run(this *scan) {
	for this != nil {
		this.picture, this.err = Scan(context.Background())
		close(this.done)
		s.mu.Lock()
		this, s.waiting = s.waiting, nil
		s.running = this
		s.mu.Unlock()
	}
}

// Settle ends the stages of a launch whose plugin is gone, so that none of them can start a guest any more, leaves guests alone, and
// returns a picture without such stages: the guest is in it, or was never started and never will be.
func (s *Scanner) Settle(ctx context.Context, marker Marker) (*Picture, error) {
	for range maxSweeps {
		picture, err := s.Scan(ctx)
		if err != nil {
			return nil, err
		}
		left, err := endAll(ctx, picture.Marked, marker, func(f Found) bool { return f.Stage })
		if err != nil {
			return nil, err
		}
		if left == 0 {
			return picture, nil
		}
	}
	return nil, fmt.Errorf("end launch of %s: %w", marker, ErrAlive)
}
