package logging_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/logging"
)

// The test binary also talks to syslog and journald, in a mount namespace where both are the test's, if this variable is set.
const roleVariable = "LOGGING_TEST_ROLE"

// talk says something to both and returns an exit code.
func talk() int {
	l, err := logging.New(logging.Config{Name: "locking", Level: logging.Debug})
	if err == nil {
		err = l.SetOutputs("1:syslog:virtlockd 2:journald")
	}
	if err == nil {
		say(l.Logger().With("key", "a b"))
		err = l.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestSyslogAndJournald(t *testing.T) {
	if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs unshare and root to make a mount namespace")
	}
	if _, err := os.Stat("/dev/log"); err == nil {
		t.Skip("there is a syslog daemon")
	}
	// The folder becomes /run of the talker, where both daemons have a socket.
	run, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	if err := os.MkdirAll(filepath.Join(run, "systemd/journal"), 0o755); err != nil {
		t.Fatal(err)
	}
	syslog, journal := listen(t, filepath.Join(run, "syslog")), listen(t, filepath.Join(run, "systemd/journal/socket"))
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `mount --bind "$1" /run && exec "$0"`, os.Args[0], run)
	cmd.Env = append(os.Environ(), roleVariable+"=talker")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A message begins with facility (daemon is 3) times 8 plus severity.
	for _, want := range []string{"<31>debug", "<30>info", "<28>warn", "<27>error"} {
		severity, word, _ := strings.Cut(want, ">")
		got := receive(t, syslog)
		if !strings.HasPrefix(got, severity+">") || !strings.Contains(got, " virtlockd[") ||
			!strings.HasSuffix(strings.TrimSpace(got), "]: locking: "+word+": key=\"a b\"") {
			t.Errorf("syslog got %q for %s", got, word)
		}
	}
	for _, want := range []string{"6 info", "4 warn", "3 error"} {
		priority, word, _ := strings.Cut(want, " ")
		got := "\n" + receive(t, journal)
		for _, field := range []string{
			"PRIORITY=" + priority, "MESSAGE=locking: " + word + ": key=\"a b\"", "LIBVIRT_SOURCE=locking",
			"SYSLOG_IDENTIFIER=" + filepath.Base(os.Args[0]),
		} {
			if !strings.Contains(got, "\n"+field+"\n") {
				t.Errorf("journald got %q, without %s", got, field)
			}
		}
	}
}

func listen(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
