package pidfile_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
)

// The test binary also claims a file and holds it until its stdin ends, if this variable names one.
const roleVariable = "PIDFILE_TEST_CLAIM"

func TestMain(m *testing.M) {
	if path := os.Getenv(roleVariable); path != "" {
		f, err := pidfile.Claim(path)
		if errors.Is(err, pidfile.ErrLocked) {
			fmt.Println("locked")
			os.Exit(0)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("claimed")
		_, _ = os.Stdin.Read(make([]byte, 1))
		if err := f.Release(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// claimer starts another process that claims the file; it says how that went, and end lets it release the file.
func claimer(t *testing.T, path string) (said string, end func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	var once sync.Once
	end = func() {
		once.Do(func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("claimer: %v", err)
			}
		})
	}
	t.Cleanup(end)
	return strings.TrimSpace(string(line[:n])), end
}

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, []byte("1234567890\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := pidfile.Claim(path)
	if err != nil {
		t.Fatal(err)
	}
	// Reading it with os.ReadFile here would drop the lock: it is closed afterwards.
	text, err := exec.Command("cat", path).Output()
	if err != nil || string(text) != strconv.Itoa(os.Getpid()) {
		t.Errorf("content %q, error %v", text, err)
	}
	if said, _ := claimer(t, path); said != "locked" {
		t.Errorf("a second process says %q", said)
	}
	if err := f.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	said, end := claimer(t, path)
	if said != "claimed" {
		t.Errorf("after the release a process says %q", said)
	}
	_, err = pidfile.Claim(path)
	if !errors.Is(err, pidfile.ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("claim of a file that another process has: %v", err)
	}
	end()
	if f, err = pidfile.Claim(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), f.Release()); err != nil {
		t.Errorf("release of a file that is gone: %v", err)
	}
}

func TestFolderThatThereIsNot(t *testing.T) {
	if _, err := pidfile.Claim(filepath.Join(t.TempDir(), "none/pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestVirtlockdAndWeExcludeEachOther(t *testing.T) {
	theirs := virtlockdtest.Start(t)
	if _, err := pidfile.Claim(theirs.PIDFile); !errors.Is(err, pidfile.ErrLocked) {
		t.Errorf("claim of virtlockd's file: %v", err)
	}
	theirs.Stop(t)
	f, err := pidfile.Claim(theirs.PIDFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	again := virtlockdtest.Start(t, "-p", theirs.PIDFile)
	if again.Running() {
		t.Error("virtlockd runs with a file that we have claimed")
	}
	if code, stderr := again.Stop(t); code != 1 || !strings.Contains(stderr, "Failed to acquire pid file") {
		t.Errorf("virtlockd ended with code %d: %s", code, stderr)
	}
}
