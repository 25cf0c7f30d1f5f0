package leases_test

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// pause is the step of a test that waits for something.
func pause() { time.Sleep(2 * time.Millisecond) }

func itoa(n int) string { return strconv.Itoa(n) }

// mustFind returns the identity of this process.
func mustFind(t testing.TB) process.ID {
	t.Helper()
	id, err := process.Find(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// posixLock has another program lock a file as virtlockd does, until the test ends, and returns its process.
func posixLock(t *testing.T, path string) int {
	t.Helper()
	const program = `import fcntl,sys
f=open(sys.argv[1],"r+b")
fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,1,0)
print("locked",flush=True)
sys.stdin.read()`
	cmd := exec.Command("python3", "-c", program, path)
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to lock a file with")
	}
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
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other program said %q", line)
	}
	return cmd.Process.Pid
}
