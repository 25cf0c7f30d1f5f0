package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is what to launch and how.
type Spec struct {
	// Marker names the guest's life.
	Marker Marker `json:"marker"`
	// Path is the program; Args are its arguments without the program's name.
	Path string   `json:"path"`
	Args []string `json:"args"`
	// Env is its environment, to which the marker is added.
	Env []string `json:"env"`
	// Dir is the guest's runtime folder: working directory and place of the record.
	Dir string `json:"dir"`
	// CgroupFiles are the cgroup.procs files of the groups to join. One that refuses is reported and passed over.
	CgroupFiles []string `json:"cgroup_files"`
	// OOMScoreAdj is applied where the kernel allows it.
	OOMScoreAdj int `json:"oom_score_adj"`
	// OpenFiles is how many descriptors the program may have, 0 for as many as usual; as far as the kernel allows it.
	OpenFiles uint64 `json:"open_files"`
	// LockedMemory lifts the limit on memory that is locked, where the kernel allows it.
	LockedMemory bool `json:"locked_memory"`
	// Owner is the user to become, nil to stay.
	Owner *Owner `json:"owner,omitempty"`
	// FileCount and Gate are filled in by Launch.
	FileCount int  `json:"file_count"`
	Gate      bool `json:"gate"`

	// Registrations are made by the program's process, in order, before it changes its user and becomes the program.
	Registrations []Registration `json:"-"`
	// Ready is called with the program's process before it becomes the program, when it has registered. An error ends it.
	Ready func(ctx context.Context, id ID) error `json:"-"`
	// Files are inherited under the numbers 3, 4, ... in their order.
	Files []*os.File `json:"-"`
	// Log takes standard output and standard error.
	Log *os.File `json:"-"`
}

// Owner is a user with its groups.
type Owner struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
}

// report is what a stage answers on its standard output.
type report struct {
	ID       ID       `json:"id"`
	Error    string   `json:"error,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Bounds of the talk between plugin and stage.
const (
	maxSpec     = 4 << 20
	maxReport   = 64 << 10
	maxWarnings = 16
)

// Launch starts the program and returns it running, with warnings about what was not possible and not needed. The caller keeps its
// own copies of the files. On an error nothing is left, unless it is ErrAlive; a program that ended at once may be an ErrGone. A
// process that could not register is ErrRegistration; an error of Ready is wrapped.
func Launch(ctx context.Context, spec Spec) (*Process, []string, error) {
	if spec.gated() {
		return launchGated(ctx, spec)
	}
	r, err := runStage(ctx, spec)
	if err != nil {
		return nil, r.Warnings, err
	}
	p, err := Open(r.ID)
	if err != nil {
		return nil, r.Warnings, fmt.Errorf("launch %s: %w", spec.Path, err)
	}
	return p, r.Warnings, nil
}

// launchGated is Launch of a program whose process stops at the gate.
func launchGated(ctx context.Context, spec Spec) (*Process, []string, error) {
	g, theirs, err := makeGate(&spec)
	if err != nil {
		return nil, nil, fmt.Errorf("launch %s: %w", spec.Path, err)
	}
	defer g.ours.Close()
	r, err := runStage(ctx, spec)
	_ = theirs.Close() // the process's own is the only one left
	if err != nil {
		return nil, r.Warnings, err
	}
	p, err := Open(r.ID)
	if err == nil {
		err = g.pass(ctx, r.ID)
	}
	if err != nil {
		_ = g.ours.Close()
		if p != nil {
			p.Close()
		}
		err = fmt.Errorf("launch %s: %w", spec.Path, err)
		return nil, r.Warnings, errors.Join(err, Sweep(ctx, spec.Marker), removeRecord(spec.Dir))
	}
	return p, r.Warnings, nil
}

// runStage has a stage start the program's process. On an error nothing is left.
func runStage(ctx context.Context, spec Spec) (report, error) {
	var r report
	spec.FileCount = len(spec.Files)
	orders, err := json.Marshal(spec)
	if err != nil {
		return r, fmt.Errorf("launch %s: %w", spec.Path, err)
	}
	var out bytes.Buffer
	// The running binary itself, even if its file was replaced by an upgrade.
	stage := exec.CommandContext(ctx, "/proc/self/exe", StageCommand)
	stage.Env = append([]string{markerVariable + "=" + spec.Marker.String()}, spec.Env...)
	stage.Stdin, stage.Stdout, stage.Stderr = bytes.NewReader(orders), &bounded{to: &out, left: maxReport}, spec.Log
	stage.ExtraFiles = spec.Files
	stage.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	ran := stage.Run()
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		r.Error = fmt.Sprintf("stage gave no report: %v", errors.Join(ran, ctx.Err()))
	}
	if r.Error != "" {
		err := fmt.Errorf("launch %s: %s", spec.Path, r.Error)
		return r, errors.Join(err, Sweep(ctx, spec.Marker))
	}
	return r, nil
}

// Sweep kills every process of a launch that nobody has taken charge of, stages and programs alike, and returns when none is left.
func Sweep(ctx context.Context, marker Marker) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTime)
	defer cancel()
	for range maxSweeps {
		found, err := Find(ctx, marker.Driver, marker.UUID)
		if err != nil {
			return err
		}
		left, err := endAll(ctx, found, marker, func(Found) bool { return true })
		if left == 0 || err != nil {
			return err
		}
	}
	return fmt.Errorf("end launch of %s: %w", marker, ErrAlive)
}

// sweepTime bounds the clean-up after a failed launch.
const sweepTime = 5 * time.Second

// maxSweeps bounds the rounds of a sweep: a stage makes one child, so two find all; more means that someone goes on starting.
const maxSweeps = 8

// endAll kills those processes of a launch that are asked for, and returns how many there were.
func endAll(ctx context.Context, found []Found, marker Marker, which func(Found) bool) (left int, err error) {
	for _, f := range found {
		if f.Marker != marker || !which(f) {
			continue
		}
		left++
		if err := end(ctx, f.ID, which); err != nil {
			return left, err
		}
	}
	return left, nil
}

// end kills one process, if it still is what was looked for: stopped first, so that it can't become a guest between the look and the kill.
func end(ctx context.Context, id ID, which func(Found) bool) error {
	p, err := Open(id)
	if err != nil {
		if errors.Is(err, ErrGone) {
			return nil
		}
		return err
	}
	defer p.Close()
	if err := p.Signal(unix.SIGSTOP); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if f, ok := Look(id.PID); ok && !which(f) {
		if err := p.Signal(unix.SIGCONT); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		return nil
	}
	return p.Kill(ctx)
}

// bounded is a writer that keeps the first bytes and drops the rest.
type bounded struct {
	to   io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > b.left {
		p = p[:b.left]
	}
	b.left -= len(p)
	if _, err := b.to.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// Tail returns the end of what was written to a log from an offset on, at most limit bytes, as one trimmed text.
func Tail(log *os.File, from, limit int64) string {
	info, err := log.Stat()
	if err != nil {
		return ""
	}
	from = max(from, info.Size()-limit)
	text := make([]byte, max(0, info.Size()-from))
	n, err := log.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(text[:n]), "?"))
}
