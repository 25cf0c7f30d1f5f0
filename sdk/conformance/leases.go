package conformance

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// lockFile makes a file with a lock on it, as the lock daemon does: an open file description lock over the whole file.
func (b *bench) lockFile() (path string, file *os.File) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		b.Fatalf("lock file: %v", err)
	}
	return path, file
}

// locked asks the kernel whether anybody holds the lock of a file.
func (b *bench) locked(path string) bool {
	b.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	probe := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &probe); err != nil {
		b.Fatalf("probe lock: %v", err)
	}
	return probe.Type != unix.F_UNLCK
}

func locksAreHeld(b *bench) {
	path, file := b.lockFile()
	g := b.newGuest("conformance")
	token := b.host.SendFile(b.T, file)
	b.start(g, &pb.Lease{Token: token, Resource: path}, &pb.Lease{Resource: "one without a descriptor"})
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	if !b.locked(path) {
		b.Error("the lock was dropped while the guest lives")
	}
	b.stop(g)
	if b.locked(path) {
		b.Error("the lock is held although the guest was stopped")
	}
}

func missingLockFailsStart(b *bench) {
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails
	g := b.newGuest("conformance")
	ctx, cancel := context.WithTimeout(b.ctx(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.driver.Start(ctx, b.startRequest(g, &pb.Lease{Token: token, Resource: "nothing"})); err == nil {
		b.Error("the guest was started without its lock")
	}
	b.stop(g)
	if v := b.recover(g, nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED {
		b.Errorf("verdict %v, want not started", v)
	}
}
