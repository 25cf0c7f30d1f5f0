package boot

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestTimeGoesOn(t *testing.T) {
	before := Now()
	time.Sleep(10 * time.Millisecond)
	if passed := Now().Sub(before); passed < 10*time.Millisecond {
		t.Errorf("%v passed in 10 ms", passed)
	}
	if got := before.Add(time.Second).Sub(before); got != time.Second {
		t.Errorf("a second later is %v later", got)
	}
	if in := time.Until(before.Add(time.Hour).Wall(before)); in < 59*time.Minute || in > time.Hour {
		t.Errorf("an hour from now is in %v by the wall clock", in)
	}
}

func TestMachineHasAName(t *testing.T) {
	host, _ := os.Hostname()
	name, err := Machine()
	if err != nil || !strings.HasPrefix(name, host) {
		t.Errorf("host %q is called %q, %v", host, name, err)
	}
}

func TestStartTimeOfAProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int32(cmd.Process.Pid)
	own, err := StartTime(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if start, err := StartTime(pid); err != nil || start < own {
		t.Errorf("a child began at %d, its parent at %d: %v", start, own, err)
	}
	_ = cmd.Process.Kill()
	for zombie := false; !zombie; { // it has not been waited for
		_, err := StartTime(pid)
		zombie = errors.Is(err, os.ErrNotExist)
	}
	_ = cmd.Wait()
	if _, err := StartTime(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
}
