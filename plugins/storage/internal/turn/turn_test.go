package turn_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/internal/turn"
)

func shell(script string) command.Command {
	return command.Command{Name: "sh", Args: []string{"-c", script}}
}

func TestWhoLooksWaitsForWhoChanges(t *testing.T) {
	dir := t.TempDir()
	lock := turn.For(dir, "/dev/some thing")
	begun, done := filepath.Join(dir, "begun"), filepath.Join(dir, "done")
	ended := make(chan error, 1)
	go func() {
		_, err := lock.Change(t.Context(), shell("touch '"+begun+"'; sleep 0.3; touch '"+done+"'"))
		ended <- err
	}()
	for {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lock.Look(short, shell("true")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("looked meanwhile: %v", err)
	}
	if out, err := lock.Look(t.Context(), command.Command{Name: "ls", Args: []string{done}}); err != nil {
		t.Errorf("what was changed is not seen: %q, %v", out, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTheLockIsTheProgramsAndNotItsStarters(t *testing.T) {
	dir := t.TempDir()
	lock := turn.For(dir, "thing")
	done := filepath.Join(dir, "done")
	// The shell stands for a driver that is killed while its program goes on.
	driver := exec.CommandContext(t.Context(), "sh", "-c", "setsid flock --exclusive --close '"+filepath.Join(dir, "thing.lock")+"' sh -c 'sleep 0.5; touch "+done+"' & echo; wait")
	out, err := driver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := driver.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = driver.Wait() // it was killed
	if _, err := lock.Look(t.Context(), command.Command{Name: "ls", Args: []string{done}}); err != nil {
		t.Errorf("the program was not waited for: %v", err)
	}
}

func TestAChangeIsNotBrokenOff(t *testing.T) {
	dir := t.TempDir()
	lock, done := turn.For(dir, "thing"), filepath.Join(dir, "done")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := lock.Change(ctx, shell("sleep 0.4; touch "+done)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(done); err != nil {
		t.Error("it was broken off")
	}
	if _, err := lock.Change(ctx, shell("rm "+done)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was begun after its time: %v", err)
	}
}

func TestFailuresAreTheProgramsOwn(t *testing.T) {
	lock := turn.For(t.TempDir(), "thing")
	var failed *command.Error
	out, err := lock.Look(t.Context(), shell("echo out; echo words >&2; exit 7"))
	if !errors.As(err, &failed) || failed.Program != "sh" || failed.Status != 7 || failed.Words != "words" || string(out) != "out\n" {
		t.Errorf("output %q, error %v", out, err)
	}
	_, err = lock.Change(t.Context(), command.Command{Name: "lodge-no-such-program"})
	if !errors.Is(err, command.ErrMissing) || !strings.Contains(err.Error(), "lodge-no-such-program") {
		t.Errorf("error %v", err)
	}
}
