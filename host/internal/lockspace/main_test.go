package lockspace_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// The test binary runs itself as another process, which does what this variable says with the file in its first argument.
const roleVariable = "LOCKSPACE_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	// Until the parent closes our stdin or kills us.
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// roles are what the other process does before it says that it is ready.
var roles = map[string]func(path string) error{
	"exclusive": func(path string) error { return take(path, lockspace.Exclusive) },
	"shared":    func(path string) error { return take(path, lockspace.Shared) },
	"posix": func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
	},
	"idle": func(string) error { return nil },
	"exec": execRole,
	"heir": heirRole,
}

func take(path string, mode lockspace.Mode) error {
	_, err := lockspace.Take(lockspace.Resource{Name: path, Mode: mode})
	return err
}

// other starts another process in a role, with files to inherit, and waits until it is ready. It is killed at the end of the test.
func other(t *testing.T, role, path string, files ...*os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd); stdin.Close() })
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("other process in role %q said %q", role, line)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func disk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
