package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
)

// daemons are ours and libvirt's, to be compared.
var daemons = []struct {
	name  string
	start func(*testing.B) (socket string, pid int)
}{{"lodge-lockd", startOurs}, {"virtlockd", startTheirs}}

// BenchmarkReplace has a daemon execute its program anew with locks, and measures how long a client waits for an answer.
func BenchmarkReplace(b *testing.B) {
	for _, daemon := range daemons {
		for _, locks := range []int{0, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/locks=%d", daemon.name, locks), func(b *testing.B) {
				socket, pid := daemon.start(b)
				ask := holder(b, socket, locks)
				var waits []time.Duration
				b.ResetTimer()
				for range b.N {
					waits = append(waits, replaced(b, ask, pid))
				}
				b.StopTimer()
				time.Sleep(time.Second) // it gives back what it needed to start
				slices.Sort(waits)
				b.ReportMetric(milliseconds(waits[len(waits)/2]), "ms-without-answer")
				b.ReportMetric(milliseconds(waits[len(waits)-1]), "ms-at-most")
				b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-resident")
			})
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// holder makes a client that has locks, and returns a call of it that changes nothing.
func holder(b *testing.B, socket string, locks int) (ask func() error) {
	b.Helper()
	dir := folder(b)
	c := dialClassic(b, socket)
	owner := startSleep(b)
	if err := c.call(lockproto.ClassicRegister, ownerArgs(owner)); err != nil {
		b.Fatal(err)
	}
	ask = func() error {
		return c.call(lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: dir})
	}
	if err := ask(); err != nil {
		b.Fatal(err)
	}
	for n := range locks {
		name := fmt.Sprintf("%064d", n) // as long as libvirt's
		args := &lockproto.ResourceArgs{Path: dir, Name: name, Flags: lockproto.ClassicAutocreate}
		if err := c.call(lockproto.ClassicAcquireResource, args); err != nil {
			b.Fatal(err)
		}
	}
	return ask
}

// replaced has the daemon replaced, calls it now and then, and returns how long there was no answer, from the signal or the last answer of
// the program before. virtlockd would lose an answer that it is just about to send, and end at a signal that comes while it
// starts, so there are pauses.
func replaced(b *testing.B, ask func() error, pid int) time.Duration {
	b.Helper()
	time.Sleep(100 * time.Millisecond)
	before := image(b, pid)
	last := time.Now()
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	for give := time.Now().Add(patience); time.Now().Before(give); {
		time.Sleep(2 * time.Millisecond)
		if err := ask(); err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		if image(b, pid) != before {
			return now.Sub(last)
		}
		last = now
	}
	b.Fatal("daemon is not replaced")
	return 0
}

// image tells an execution of a program from another one in the same process: where its stack begins, which the kernel makes up
// (field 28 of /proc/PID/stat).
func image(b testing.TB, pid int) string {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	const afterName = 28 - 3
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= afterName {
		b.Fatalf("stat: %s", text)
	}
	return string(fields[afterName])
}

// resident returns a size of a process in MiB.
func resident(b *testing.B, pid int, key string) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if _, err := fmt.Sscanf(line, key+": %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	b.Fatalf("no %s in %s", key, text)
	return 0
}

// BenchmarkMemory measures what a daemon holds with a thousand locks, with two thousand clients besides, and after it was replaced.
func BenchmarkMemory(b *testing.B) {
	const locks, clients = 1000, 2000
	for _, daemon := range daemons {
		b.Run(daemon.name, func(b *testing.B) {
			socket, pid := daemon.start(b)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-fresh")
			ask := holder(b, socket, locks)
			b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-1000-locks")
			b.ReportMetric(resident(b, pid, "RssAnon"), "MiB-1000-locks-anonymous")
			for range clients {
				dialPatiently(b, socket)
			}
			last := dialClassic(b, socket)
			if err := last.call(lockproto.ClassicRegister, ownerArgs(startSleep(b))); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-2000-clients")
			if daemon.name != "virtlockd" { // which ends then, because of clients that have not registered
				replaced(b, ask, pid)
				time.Sleep(time.Second) // it gives back what it needed to start
				b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-replaced")
			}
		})
	}
}

// dialPatiently connects even if more clients do than the daemon has taken so far.
func dialPatiently(b *testing.B, socket string) {
	b.Helper()
	for give := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			b.Cleanup(func() { conn.Close() })
			return
		}
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(give) {
			b.Fatal(err)
		}
	}
}

// clientsConfig is a configuration of virtlockd that lets so many clients in.
func clientsConfig(b *testing.B, dir string) string {
	b.Helper()
	path := filepath.Join(dir, "virtlockd.conf")
	if err := os.WriteFile(path, []byte("max_clients = 3000\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}
