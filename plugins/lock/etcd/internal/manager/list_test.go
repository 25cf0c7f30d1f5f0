package manager_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/manager"
	"github.com/lodgevirt/lodge/sdk/faketest"
)

// list runs the command.
func (s *scene) list(args ...string) (out, problems string, err error) {
	cmd := exec.CommandContext(context.Background(), os.Args[0], append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

func TestListOfAllHosts(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 10)
	a, b := s.host("host-a").guest("one\x1b[2J", false), s.host("host-b").guest("two", false)
	a.take("/alone", "/shared")
	b.take("/shared")
	if _, err := s.client.Put(s.ctx(), s.holderKey("/odd"), "hello"); err != nil {
		t.Fatal(err)
	}
	where := []string{"--endpoints", strings.Join(s.etcd.Endpoints(), ","), "--prefix", s.prefix}
	out, problems, err := s.list(where...)
	if err != nil {
		t.Fatalf("list: %v, %s", err, problems)
	}
	for _, want := range []string{"host-a", "host-b", "exclusive", "shared", "/alone", `"one\x1b[2J"`, "h/e"} {
		if !strings.Contains(out, want) {
			t.Errorf("the list does not tell %q:\n%s", want, out)
		}
	}
	if lines := strings.Count(out, "\n"); lines != 5 || strings.Contains(out, "\x1b") {
		t.Errorf("the list has %d lines:\n%q", lines, out)
	}
	out, problems, err = s.list(append(where, "--json")...)
	if err != nil || strings.Count(out, "\n") != 4 || !strings.Contains(out, `"holder":null`) || !strings.Contains(out, `"path":"/alone"`) {
		t.Errorf("for programs the list is %s, %v, %s", out, err, problems)
	}
	if _, problems, err = s.list("--endpoints", "nowhere"); err == nil || !strings.Contains(problems, "endpoints") {
		t.Errorf("an endpoint that is none: %v, %s", err, problems)
	}
	if _, _, err = s.list("--help"); err != nil {
		t.Errorf("asked for help: %v", err)
	}
	if _, problems, err = s.list("more"); err == nil || !strings.Contains(problems, "more") {
		t.Errorf("an argument that is none: %v, %s", err, problems)
	}
}

func TestTimeToLiveIsChanged(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 10)
	core := faketest.NewCore(t)
	mc := s.machine(core, options)
	o := owner("guest", 0)
	for _, ttl := range []int{20, 40} {
		if err := mc.acquire(o, "/disk"); err != nil {
			t.Fatal(err)
		}
		if _, err := mc.m.Release(s.ctx(), releaseOf(o)); err != nil {
			t.Fatal(err)
		}
		s.ttl = ttl
		settings := core.Settings()
		settings.Config = s.config("machine")
		if err := mc.m.Configure(s.ctx(), settings); err != nil {
			t.Fatal(err)
		}
		if err := mc.acquire(o, "/disk"); err != nil {
			t.Fatal(err)
		}
		if left, err := s.client.TimeToLive(s.ctx(), s.lease("/disk")); err != nil || left.GrantedTTL != int64(ttl) {
			t.Errorf("the lease was granted for %v, %v; want %d", left, err, ttl)
		}
	}
	mc.end()
	next := s.machine(core, manager.Options{MinTTL: options.MinTTL, Linger: options.Linger})
	if err := next.acquire(o, "/disk"); err != nil {
		t.Errorf("with the lease of the last process: %v", err)
	}
}
