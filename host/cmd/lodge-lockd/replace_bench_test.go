package main

import (
	"bytes"
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

// BenchmarkReplace has a daemon execute its program anew with locks, and measures how long a client that calls all the while waits for an
// answer.
func BenchmarkReplace(b *testing.B) {
	for _, daemon := range daemons {
		for _, locks := range []int{0, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/locks=%d", daemon.name, locks), func(b *testing.B) {
				socket, pid := daemon.start(b)
				c, ask := holder(b, socket, locks)
				var waits []time.Duration
				b.ResetTimer()
				for range b.N {
					waits = append(waits, replaced(b, c, ask, pid))
				}
				b.StopTimer()
				slices.Sort(waits)
				b.ReportMetric(milliseconds(waits[len(waits)/2]), "ms-without-answer")
				b.ReportMetric(milliseconds(waits[len(waits)-1]), "ms-at-most")
				b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-resident")
			})
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// holder returns a client that has locks, and a call that changes nothing.
func holder(b *testing.B, socket string, locks int) (c *classicClient, ask func() error) {
	b.Helper()
	dir := folder(b)
	c = dialClassic(b, socket)
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
	return c, ask
}

// replaced has the daemon replaced and returns the longest time that a call took meanwhile.
func replaced(b *testing.B, c *classicClient, ask func() error, pid int) (longest time.Duration) {
	b.Helper()
	before := image(b, pid)
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	for give := time.Now().Add(patience); time.Now().Before(give); {
		begun := time.Now()
		if err := ask(); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(begun))
		if image(b, pid) != before {
			return longest
		}
	}
	b.Fatal("daemon is not replaced")
	return 0
}

// image tells an execution of a program from another one in the same process: where its stack begins, which the kernel makes up
// (field 28 of /proc/PID/stat).
func image(b *testing.B, pid int) string {
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
			c, ask := holder(b, socket, locks)
			b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-1000-locks")
			b.ReportMetric(resident(b, pid, "RssAnon"), "MiB-1000-locks-anonymous")
			for range clients {
				conn, err := net.Dial("unix", socket)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { conn.Close() })
			}
			last := dialClassic(b, socket)
			if err := last.call(lockproto.ClassicRegister, ownerArgs(startSleep(b))); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-2000-clients")
			if daemon.name != "virtlockd" { // which ends then, because of clients that have not registered
				replaced(b, c, ask, pid)
				b.ReportMetric(resident(b, pid, "VmRSS"), "MiB-replaced")
			}
		})
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
