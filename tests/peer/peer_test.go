package peer_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
)

func TestMain(m *testing.M) {
	peer.RunJail()
	os.Exit(m.Run())
}

// enter makes a jail that is closed with the test.
func enter(t *testing.T, places ...peer.Place) *peer.Jail {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("makes a mount namespace, which needs root")
	}
	j, err := peer.Enter(t.Context(), t.TempDir(), places...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func TestPlacesAndMountsAreSeenInsideOnly(t *testing.T) {
	outside, target := t.TempDir(), t.TempDir()
	j := enter(t, peer.Place{Source: outside, Target: target})
	for _, args := range [][]string{
		{"touch", filepath.Join(target, "seen")},
		{"mkdir", filepath.Join(target, "memory")},
		{"mount", "-t", "tmpfs", "-o", "size=64k", "none", filepath.Join(target, "memory")},
		{"touch", filepath.Join(target, "memory", "hidden")},
	} {
		if out, err := j.Run(args...); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	for path, want := range map[string]bool{
		filepath.Join(outside, "seen"):                    true,
		filepath.Join(target, "seen"):                     false,
		filepath.Join(outside, "memory", "hidden"):        false,
		j.Inside(filepath.Join(target, "memory/hidden")):  true,
		j.Inside(filepath.Join(target, "memory/nothing")): false,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}

func TestAFailedProgramSaysWhy(t *testing.T) {
	j := enter(t)
	if _, err := j.Run("sh", "-c", "echo no such luck; exit 3"); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("the error is %v, want what the program said", err)
	}
	if _, err := j.Start("nothing", "/nonexistent/program"); err == nil {
		t.Error("what is not there was started")
	}
	if out, err := j.Run("echo", "well"); err != nil || out != "well\n" {
		t.Errorf("the next program said %q (%v)", out, err)
	}
}

// TestNothingOutlivesAJail starts a process and an orphan of it that ignores signals, and expects both to go with the jail, and to be
// reaped before.
func TestNothingOutlivesAJail(t *testing.T) {
	j := enter(t)
	dir := t.TempDir()
	pid, err := j.Start("parent", "sh", "-c", fmt.Sprintf(
		`(trap "" TERM HUP; echo $(exec sh -c 'echo $PPID') >%[1]s/new; mv %[1]s/new %[1]s/orphan; while :; do sleep 1; done) & exec sleep 600`, dir))
	if err != nil {
		t.Fatal(err)
	}
	var orphan int
	for deadline := time.Now().Add(20 * time.Second); orphan == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(dir, "orphan"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		orphan, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err := j.End(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rig.StartTime(pid); err == nil {
		t.Error("the process is still there when it was ended")
	}
	left, err := j.Children()
	if err != nil || len(left) != 1 || left[0] != orphan {
		t.Errorf("the jail's children are %v (%v), want the orphan %d", left, err, orphan)
	}
	if err := j.End(pid, unix.SIGKILL); err != nil {
		t.Errorf("ending it again: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rig.StartTime(orphan); err == nil {
		t.Error("the orphan has outlived the jail")
	}
}

// TestLibvirtAnswers starts the real one twice.
func TestLibvirtAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts libvirtd")
	}
	if err := peer.Available(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "lp")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := peer.Build(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := l.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if out, err := rig.Run(ctx, "virsh", "-q", "-c", l.URI(), "list", "--all"); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("the list is %q (%v), want an empty one", out, err)
		}
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
