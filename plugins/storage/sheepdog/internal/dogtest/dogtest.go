// Package dogtest has a sheepdog cluster for tests that is none: a program in dog's place (fakedog), which keeps images in a folder of the
// test's and behaves as dog of version 1.0 does, with its traps. It can also replay recorded runs.
//
// A Cluster is safe concurrently, as its state is in files.
package dogtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Cluster is a folder with the program and what it keeps.
type Cluster struct {
	// Dir is the folder.
	Dir string
	t   testing.TB
}

// program builds the program once for all tests of a process.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fakedog-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	name := filepath.Join(dir, "dog")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", name, "github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dogtest/fakedog")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build fakedog: %w: %s", err, out)
	}
	return os.ReadFile(name)
})

// Start makes a formatted cluster without images.
func Start(t testing.TB) *Cluster {
	t.Helper()
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t.TempDir(), t}
	if err := os.WriteFile(c.Program(), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// Program is the path of what is in dog's place.
func (c *Cluster) Program() string { return filepath.Join(c.Dir, "dog") }

// Config is the driver's table that has it used, with more in it.
func (c *Cluster) Config(more string) []byte {
	return fmt.Appendf(nil, `{"dog": %q%s}`, c.Program(), more)
}

// Set puts the cluster into a state: "down", "unformatted" or "hang", or out of it.
func (c *Cluster) Set(state string, on bool) {
	c.t.Helper()
	name := filepath.Join(c.Dir, state)
	err := os.Remove(name)
	if on {
		err = os.WriteFile(name, nil, 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
}

// Run is a recorded run.
type Run struct {
	// Exit is its status, Out and Err are files with what it printed.
	Exit     int
	Out, Err string
}

// Replay has the next runs answered by recorded ones, whatever they ask for.
func (c *Cluster) Replay(runs ...Run) {
	c.t.Helper()
	var text strings.Builder
	for _, r := range runs {
		fmt.Fprintf(&text, "%d\t%s\t%s\n", r.Exit, r.Out, r.Err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "replay"), []byte(text.String()), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// Unanswered is how many of the recorded runs nobody has asked for yet.
func (c *Cluster) Unanswered() int {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, "replay"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

// Text is a recorded run of one's own words.
func (c *Cluster) Text(exit int, out, err string) Run {
	c.t.Helper()
	r := Run{Exit: exit}
	for name, text := range map[*string]string{&r.Out: out, &r.Err: err} {
		f, err := os.CreateTemp(c.Dir, "run-")
		if err != nil {
			c.t.Fatal(err)
		}
		*name = f.Name()
		if _, err := f.WriteString(text); err != nil {
			c.t.Fatal(err)
		}
		_ = f.Close()
	}
	return r
}
