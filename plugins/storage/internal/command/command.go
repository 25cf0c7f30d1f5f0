// Package command runs the programs that storage drivers need, and bounds what they may do: arguments are never read by a shell, a
// program ends with its context, and what it prints is cut.
//
// Functions are safe concurrently.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxOutput is how much of a program's output is kept, in bytes; more is an error.
	MaxOutput = 16 << 20
	// maxWords bounds what of a program's own words goes into an error, in bytes.
	maxWords = 1024
	// killWait is how long a killed program's pipes are waited for.
	killWait = 2 * time.Second
	// path is where programs are looked for by those that are run.
	path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("is not installed")

// Error is a program that ended with a status other than 0.
type Error struct {
	Program string
	// Status is its exit status, or -1 if a signal ended it.
	Status int
	// Words is what it said on its standard error output, cut and trimmed.
	Words string
}

// Error implements error.
func (e *Error) Error() string {
	how := fmt.Sprintf("%s: exit status %d", e.Program, e.Status)
	if e.Status < 0 {
		how = e.Program + ": ended by a signal"
	}
	if e.Words == "" {
		return how
	}
	return how + ": " + e.Words
}

// Command is a program to be run.
type Command struct {
	Name string
	Args []string
	// Env are further variables; the environment is otherwise the C locale and a plain PATH.
	Env []string
	// Stdin is what it reads, or nil for nothing.
	Stdin io.Reader
	// Files are its descriptors from 3 on.
	Files []*os.File
	// Outlives has it go on undisturbed if this process dies: what it prints goes into memory, and not into a pipe that breaks.
	Outlives bool
}

// Available reports whether a program is installed.
func Available(name string) bool {
	_, err := Find(name)
	return err == nil
}

// Find returns the path of a program, for one that another program runs.
func Find(name string) (string, error) {
	if found, err := exec.LookPath(name); err == nil {
		return filepath.Clean(found), nil
	}
	for _, dir := range filepath.SplitList(strings.TrimPrefix(path, "PATH=")) {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, ErrMissing)
}

// Run runs a program to its end and drops what it prints.
func Run(ctx context.Context, name string, args ...string) error {
	return (&Command{Name: name, Args: args}).Run(ctx)
}

// Output runs a program to its end and returns what it prints.
func Output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := (&Command{Name: name, Args: args}).Output(ctx)
	return string(out), err
}

// Run runs the program to its end and drops what it prints.
func (c *Command) Run(ctx context.Context) error { return c.run(ctx, io.Discard) }

// Output runs the program to its end and returns what it prints, even if it fails.
func (c *Command) Output(ctx context.Context) ([]byte, error) {
	out := &bounded{limit: MaxOutput}
	err := c.run(ctx, out)
	if err == nil && out.cut {
		err = fmt.Errorf("%s printed more than %d bytes", c.Name, MaxOutput)
	}
	return out.text.Bytes(), err
}

func (c *Command) run(ctx context.Context, out io.Writer) error {
	found, err := Find(c.Name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, found, c.Args...)
	cmd.Env = append([]string{"LC_ALL=C", path}, c.Env...)
	cmd.WaitDelay = killWait
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	// What it has started goes with it.
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	words := &bounded{limit: maxWords}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = c.Stdin, out, words, c.Files
	if c.Outlives {
		err = runApart(cmd, out, words)
	} else {
		err = cmd.Run()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", c.Name, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &Error{Program: c.Name, Status: exit.ExitCode(), Words: strings.TrimSpace(words.text.String())}
	}
	return fmt.Errorf("%s: %w", c.Name, err)
}

// runApart runs a program whose output goes through files in memory.
func runApart(cmd *exec.Cmd, out, words io.Writer) error {
	files := [2]*os.File{}
	for n := range files {
		f, err := Memory(nil)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		files[n] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err := cmd.Run()
	for n, to := range [2]io.Writer{out, words} {
		if _, errRead := io.Copy(to, io.NewSectionReader(files[n], 0, 2*MaxOutput)); errRead != nil {
			err = errors.Join(err, errRead)
		}
	}
	return err
}

// Memory is a file that is nowhere on a disk: a secret for a program, as one of its Files.
func Memory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "secret")
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("make file in memory: %w", err), f.Close())
	}
	return f, nil
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	text  bytes.Buffer
	limit int
	cut   bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.limit-b.text.Len())
	b.cut = b.cut || n < len(p)
	b.text.Write(p[:n])
	return len(p), nil
}
