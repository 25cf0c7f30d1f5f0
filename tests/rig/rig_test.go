package rig_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

func TestMain(m *testing.M) {
	rig.RunProbe()
	os.Exit(m.Run())
}

// TestProbeTellsWhenALockWasFree takes, drops and takes again a lock, and expects the probe to have seen exactly that.
func TestProbeTellsWhenALockWasFree(t *testing.T) {
	for name, tc := range map[string]struct {
		drop bool
		want int
	}{
		"a lock that is held all the time was never free": {false, 0},
		"a lock that was dropped once was free once":      {true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			set := func(kind int16) {
				t.Helper()
				if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Len: 1}); err != nil {
					t.Fatal(err)
				}
			}
			set(unix.F_WRLCK)
			probe, err := rig.StartProbe(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if tc.drop {
				set(unix.F_UNLCK)
				for len(probe.Free()) == 0 && t.Context().Err() == nil {
					time.Sleep(time.Millisecond)
				}
				set(unix.F_WRLCK)
				for probe.Free()[0].To.IsZero() && t.Context().Err() == nil {
					time.Sleep(time.Millisecond)
				}
			}
			looks, free, err := probe.Stop()
			if err != nil {
				t.Fatal(err)
			}
			if looks == 0 || len(free) != tc.want {
				t.Errorf("looked %d times and saw the lock free at %v, want %d times", looks, free, tc.want)
			}
		})
	}
}

// TestImageBoots boots the guest's image with QEMU alone, waits until it has counted to 3 on its console and on its disk, and presses
// its power button.
func TestImageBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no QEMU (make deps)")
	}
	dir := t.TempDir()
	image, err := rig.BuildImage("../..", dir)
	if errors.Is(err, rig.ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	monitor := filepath.Join(dir, "monitor")
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "128", "-serial", "stdio",
		"-kernel", image.Kernel, "-initrd", image.Initramfs, "-append", "console=ttyS0 quiet",
		"-monitor", "unix:"+monitor+",server=on,wait=off", "-drive", "if=virtio,format=raw,file="+image.Disk)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	for chunk := make([]byte, 4096); !strings.Contains(console.String(), "tick 3"); {
		n, err := stdout.Read(chunk)
		console.Write(chunk[:n])
		if err != nil {
			t.Fatalf("console ended: %v\n%s", err, console.String())
		}
	}
	disk, err := os.ReadFile(image.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(disk, []byte("tick ")) {
		t.Errorf("the disk begins with %q, want a count", disk[:16])
	}
	stop := make(chan struct{})
	pressed := make(chan struct{})
	go func() {
		defer close(pressed)
		pressPower(t, monitor, stop)
	}()
	defer func() {
		close(stop)
		<-pressed
	}()
	_, _ = console.ReadFrom(stdout) // It ends with QEMU, whose exit code says whether all was well.
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guest did not power off: %v\n%s", err, console.String())
	}
}

// pressPower presses the power button through QEMU's monitor, again and again until it is told to stop: the guest may not listen yet.
func pressPower(t *testing.T, monitor string, stop <-chan struct{}) {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "unix", monitor)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	for {
		if _, err := conn.Write([]byte("system_powerdown\n")); err != nil {
			return // QEMU has ended.
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
	}
}
