package cleanup

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
)

func TestMain(m *testing.M) {
	sanlocktest.RunOwner()
	goleak.VerifyTestMain(m)
}

func TestOnlyLeasesThatNobodyHasAreRemoved(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	one, two := sanlocktest.NewHost(t, "host1"), sanlocktest.NewHost(t, "host2")
	write := func(name string) client.Disk {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1<<20); err != nil {
			t.Fatal(err)
		}
		return client.Disk{Path: path}
	}
	joined := make(chan error, 2)
	space := client.Lockspace{Name: Space, Disk: write(Space)}
	if err := one.Client.InitLockspace(ctx, space, sanlocktest.IOTimeout); err != nil {
		t.Fatal(err)
	}
	for i, h := range []*sanlocktest.Host{one, two} {
		go func() {
			own := space
			own.HostID = uint64(i + 1)
			joined <- h.Client.Join(ctx, own, sanlocktest.IOTimeout)
		}()
	}
	for range 2 {
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
	}
	lease := func(name string) client.Resource {
		t.Helper()
		r := client.Resource{Lockspace: Space, Name: name, Disks: []client.Disk{write(name)}}
		if err := one.Client.InitResource(ctx, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	name := func(digit string) string { return strings.Repeat(digit, 32) }
	here, there := lease(name("1")), lease(name("2"))
	lease(name("3"))
	if err := one.Client.Acquire(ctx, one.NewOwner(t, "").PID, "here", []client.Resource{here}); err != nil {
		t.Fatal(err)
	}
	if err := two.Client.Acquire(ctx, two.NewOwner(t, "").PID, "there", []client.Resource{there}); err != nil {
		t.Fatal(err)
	}
	lease("something-else")
	write(".new-young")
	write(".new-old")
	old := time.Now().Add(-2 * freshTime)
	if err := os.Chtimes(filepath.Join(dir, ".new-old"), old, old); err != nil {
		t.Fatal(err)
	}

	var out, errs bytes.Buffer
	if code := run([]string{"-dir", dir, "-run-dir", one.Dir}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Errorf("exit code is %d: %s", code, errs.String())
	}
	if !strings.HasSuffix(out.String(), "\n2 removed\n") || strings.Count(out.String(), "in use") != 2 {
		t.Errorf("it said %q", out.String())
	}
	var left []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{".new-young", name("1"), name("2"), Space, "something-else"}
	if strings.Join(left, " ") != strings.Join(want, " ") {
		t.Errorf("left are %v, not %v", left, want)
	}
}

func TestMistakesAreTold(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"-dir", "/nonexistent"}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "/nonexistent") {
		t.Errorf("a missing folder: %d, %q", code, errs.String())
	}
	if code := run([]string{"what"}, &out, &errs); code != 2 {
		t.Errorf("a word too many: %d", code)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("1", 32)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if code := run([]string{"-dir", dir, "-run-dir", dir}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "not running") {
		t.Errorf("no daemon: %d, %q", code, errs.String())
	}
}
