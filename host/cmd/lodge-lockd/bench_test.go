package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// BenchmarkAcquireRelease takes and drops a lock file in a lockspace over the socket of a daemon in another process: ours in both programs,
// and libvirt's own virtlockd where it is installed.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, daemon := range daemons {
		b.Run(daemon.name, func(b *testing.B) {
			socket, pid := daemon.start(b)
			for _, clients := range []int{1, 16} {
				b.Run(fmt.Sprintf("classic/clients=%d", clients), func(b *testing.B) { pairs(b, pid, clients, classicPairs(b, socket)) })
				if daemon.name == "lodge-lockd" {
					b.Run(fmt.Sprintf("own/clients=%d", clients), func(b *testing.B) { pairs(b, pid, clients, ownPairs(b, socket)) })
				}
			}
		})
	}
}

// pairs has clients do b.N pairs in all. begin makes the client of a number; what it returns does a pair. The processor time that the
// daemon takes is told too: other work on the machine changes it less than the rate.
func pairs(b *testing.B, pid, clients int, begin func(n int) func() error) {
	b.Helper()
	do := make([]func() error, clients)
	for n := range do {
		do[n] = begin(n)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	before := processorTime(b, pid)
	b.ResetTimer()
	var all sync.WaitGroup
	for _, pair := range do {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := pair(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
	b.ReportMetric(float64((processorTime(b, pid)-before).Nanoseconds())/float64(b.N), "daemon-ns/pair")
}

// processorTime is what all threads of a process have used so far (/proc/PID/schedstat counts in nanoseconds).
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		b.Fatalf("threads of process %d: %v (%v)", pid, threads, err)
	}
	var sum time.Duration
	for _, path := range threads {
		var used time.Duration
		text, err := os.ReadFile(path)
		if err == nil {
			_, err = fmt.Sscan(string(text), &used)
		}
		if err == nil {
			sum += used
		}
	}
	return sum
}

// folder is one in memory if there is a file system for that, as run directories are: making a file on a disk costs more than a daemon.
func folder(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lockd-bench")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// startOurs runs our daemon in another process.
func startOurs(b *testing.B) (socket string, pid int) {
	b.Helper()
	dir := folder(b)
	socket = filepath.Join(dir, "sock")
	cmd := exec.Command(os.Args[0], "--socket", socket, "--log-level", "warn", "--max-clients", "3000")
	cmd.Env = append(os.Environ(), roleVariable+"=daemon")
	launch(b, cmd, socket)
	return socket, cmd.Process.Pid
}

// startTheirs runs virtlockd in a mount namespace where /run is a folder of the benchmark's.
func startTheirs(b *testing.B) (socket string, pid int) {
	b.Helper()
	if _, err := exec.LookPath("virtlockd"); err != nil || os.Geteuid() != 0 {
		b.Skip("needs virtlockd and root")
	}
	dir := folder(b)
	socket = filepath.Join(dir, "libvirt", "virtlockd-sock")
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /run && mkdir -p /run/libvirt && exec virtlockd -f "$1" -p "$0/pid"`, dir, clientsConfig(b, dir))
	launch(b, cmd, socket)
	return socket, cmd.Process.Pid
}

func launch(b *testing.B, cmd *exec.Cmd, socket string) {
	b.Helper()
	if err := cmd.Start(); err != nil {
		b.Skip("cannot start the daemon: ", err)
	}
	b.Cleanup(func() { end(cmd) })
	for give := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(give) {
			b.Fatal(err)
		}
	}
}

// ownPairs are pairs in our own program, each client a guest with a connection of its own.
func ownPairs(b *testing.B, socket string) func(int) func() error {
	dir := folder(b)
	return func(n int) func() error {
		c := lockclient.New(socket)
		b.Cleanup(c.Close)
		o := lockclient.Owner{UUID: uuid.UUID{1, byte(n)}, Name: "guest", Generation: 1}
		disk := lockspace.ForDisk(dir, fmt.Sprint("/images/", n), lockspace.Exclusive)
		return func() error {
			got, err := c.Acquire(b.Context(), o, []lockspace.Resource{disk})
			if err != nil {
				return err
			}
			forget(got)
			_, err = c.Release(b.Context(), o.UUID, o.Generation)
			return err
		}
	}
}

// classicPairs are pairs in virtlockd's program, each client an owner with a process of its own.
func classicPairs(b *testing.B, socket string) func(int) func() error {
	dir := folder(b)
	return func(n int) func() error {
		owner := exec.Command("sleep", "600")
		if err := owner.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { end(owner) })
		c := dialClassic(b, socket)
		pid := uint32(owner.Process.Pid)
		disk := lockspace.ForDisk(dir, fmt.Sprint("/images/", n), lockspace.Exclusive)
		err := errors.Join(
			c.call(lockproto.ClassicRegister, &lockproto.RegisterArgs{UUID: [16]byte{byte(n)}, Name: "guest", ID: pid, PID: pid}),
			c.call(lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: dir}))
		if err != nil {
			b.Fatal(err)
		}
		take := &lockproto.ResourceArgs{Path: dir, Name: disk.Name, Flags: lockproto.ClassicAutocreate}
		drop := &lockproto.ResourceArgs{Path: dir, Name: disk.Name}
		return func() error {
			if err := c.call(lockproto.ClassicAcquireResource, take); err != nil {
				return err
			}
			return c.call(lockproto.ClassicReleaseResource, drop)
		}
	}
}

// classicClient speaks virtlockd's program in three system calls a call, so that the daemons are what is measured. It blocks a thread.
type classicClient struct {
	fd      int
	serial  uint32
	out, in []byte
}

func dialClassic(b testing.TB, socket string) *classicClient {
	b.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		b.Cleanup(func() { unix.Close(fd) })
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	}
	if err != nil {
		b.Fatal(err)
	}
	// A goroutine that blocks in a system call keeps its processor for a while, which the others must not have to wait for.
	before := runtime.GOMAXPROCS(64)
	b.Cleanup(func() { runtime.GOMAXPROCS(before) })
	return &classicClient{fd: fd, in: make([]byte, 4096)}
}

func (c *classicClient) call(procedure int32, args any) error {
	payload, err := xdr.Append(nil, args)
	if err != nil {
		return err
	}
	c.serial++
	h := rpc.Header{Program: lockproto.ClassicProgram, Version: lockproto.ClassicVersion, Procedure: procedure, Serial: c.serial}
	c.out = binary.BigEndian.AppendUint32(c.out[:0], uint32(4+rpc.HeaderSize+len(payload)))
	c.out = append(h.Append(c.out), payload...)
	if _, err := unix.Write(c.fd, c.out); err != nil {
		return err
	}
	for have := 0; ; {
		// libvirt's client waits in poll too. One that waits in read is woken when its call is read as well, by the daemon's processor.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return err
		}
		n, err := unix.Read(c.fd, c.in[have:])
		if err != nil || n == 0 {
			return fmt.Errorf("read answer: %d bytes, %w", n, err)
		}
		have += n
		if have < 4+rpc.HeaderSize || have < int(binary.BigEndian.Uint32(c.in)) {
			continue
		}
		if status := rpc.Status(binary.BigEndian.Uint32(c.in[rpc.HeaderSize:])); status == rpc.OK {
			return nil
		}
		e, err := rpc.ParseError(c.in[4+rpc.HeaderSize : have])
		if err != nil {
			return err
		}
		return e.Err()
	}
}
