package driver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// lockSocket is a socket that takes connections and says nothing. It returns its path.
func lockSocket(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "locks.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-served })
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return path
}

// sockets counts the sockets that a process has open.
func sockets(t *testing.T, pid int) int {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(links, func(link string) bool {
		path, err := os.Readlink(link)
		return err != nil || !strings.HasPrefix(path, "socket:")
	}))
}

func TestLocksAreClaimedForTheProcessThatBecomesQEMU(t *testing.T) {
	for name, registrations := range map[string][]*lockv1.Registration{
		"that has registered":      {{Socket: lockSocket(t), Exchanges: []*lockv1.Exchange{{Send: []byte("it is me")}}}},
		"that registers with none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			plain := r.start(true)
			usual := sockets(t, int(plain.GetHandle().GetPid()))
			r.stop()

			var claimed process.Found
			r.core.SetClaimer(func(_ context.Context, guest *pb.Guest, pid int32, start uint64) error {
				claimed, _ = process.Look(int(pid))
				if guest.GetUuid() != r.guest.GetUuid() || claimed.ID.StartTime != start || !claimed.Stage {
					t.Errorf("claimed for %v, process %d of %d, which is %+v", guest, pid, start, claimed)
				}
				return nil
			})
			req := r.startRequest(true)
			req.Resolved.Claim, req.Resolved.Registrations = true, registrations
			resp, err := r.driver.Start(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			h := resp.GetHandle()
			if (process.ID{PID: int(h.GetPid()), StartTime: h.GetStartTime()}) != claimed.ID {
				t.Errorf("guest is %v, claimed was %v", h, claimed)
			}
			if got := sockets(t, int(h.GetPid())); got != usual+len(registrations) {
				t.Errorf("QEMU has %d sockets, of which %d are its own", got, usual)
			}
			r.restart()
			if v := r.recover(h).GetVerdict(); v != pb.Verdict_VERDICT_RUNNING {
				t.Errorf("verdict is %v", v)
			}
			r.stop()
		})
	}
}

func TestRefusedClaimFailsTheStartAndLeavesNothing(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, `<disk type='file'><driver name='qemu' type='raw'/><source file='`+image+`'/><target dev='vda' bus='virtio'/></disk>`)
	r.core.SetClaimer(func(context.Context, *pb.Guest, int32, uint64) error {
		return verr.New(verr.ResourceBusy, "disk is in use by guest \"other\"")
	})
	req := r.startRequest(true)
	req.Resolved.Claim = true
	req.Resolved.Registrations = []*lockv1.Registration{{Socket: lockSocket(t)}}
	_, err := r.driver.Start(t.Context(), req)
	if !verr.Is(err, verr.ResourceBusy) || err.Error() != `disk is in use by guest "other"` {
		t.Errorf("error is %v", err)
	}
	r.nothingLeft()
	r.start(true)
	r.stop()
}

func TestGuestThatCannotRegisterIsNotStarted(t *testing.T) {
	r := newRig(t, "")
	r.core.SetClaimer(func(context.Context, *pb.Guest, int32, uint64) error {
		t.Error("claimed")
		return nil
	})
	req := r.startRequest(true)
	req.Resolved.Claim = true
	req.Resolved.Registrations = []*lockv1.Registration{{Socket: filepath.Join(t.TempDir(), "nobody")}}
	_, err := r.driver.Start(t.Context(), req)
	if !verr.Is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("error is %v", err)
	}
	r.nothingLeft()
}

// A guest's files are given to its user only when the locks are had: until then they may be another guest's.
func TestFilesStayAsTheyAreUntilTheLocksAreHad(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type></os><seclabel type='static' model='dac' relabel='yes'><label>+12345:+12345</label></seclabel>
		<devices><disk type='file'><driver name='qemu' type='raw'/><source file='`+image+`'/><target dev='vda' bus='virtio'/></disk></devices>`)
	r.core.SetClaimer(func(context.Context, *pb.Guest, int32, uint64) error {
		if uid := owner(t, image); uid != 0 {
			t.Errorf("image is that of user %d already", uid)
		}
		return verr.New(verr.ResourceBusy, "no")
	})
	req := r.startRequest(true)
	req.Resolved.Claim = true
	if _, err := r.driver.Start(t.Context(), req); !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("error is %v", err)
	}
	if uid := owner(t, image); uid != 0 {
		t.Errorf("image is that of user %d afterwards", uid)
	}
}
