package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/stream"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// pass opens a file for the driver, at the place where the core would have the state begin, and returns the token to name it by.
func (r *rig) pass(path string, mode int, n byte) []byte {
	r.t.Helper()
	file, err := os.OpenFile(path, mode, 0o600)
	if err == nil {
		_, err = file.Seek(4096, io.SeekStart)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	token := fdpass.Token{n}
	r.core.SendFile(token, file)
	return token[:]
}

// setFormat configures the driver.
func (r *rig) setFormat(format string) {
	settings := r.core.Settings()
	settings.Config = fmt.Appendf(nil, `{"save_image_format": %q}`, format)
	r.core.SetSettings(settings)
}

// save saves the guest and returns what was told: the names of the messages, each once.
func (r *rig) save(token []byte, direct bool) (told []string, err error) {
	r.t.Helper()
	err = r.driver.Save(r.t.Context(), &pb.SaveRequest{Guest: r.guest, Token: token, BypassCache: direct}, func(m *pb.SaveResponse) error {
		name := strings.TrimPrefix(fmt.Sprintf("%T", m.GetMessage()), "*hypervisorv1.SaveResponse_")
		if len(told) == 0 || told[len(told)-1] != name {
			told = append(told, name)
		}
		return nil
	})
	return told, err
}

func TestEveryFormatIsRestored(t *testing.T) {
	for _, format := range stream.Formats() {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s direct=%v", format, direct), func(t *testing.T) {
				r := newRig(t, "")
				r.start(false)
				r.setFormat(format)
				path := filepath.Join(t.TempDir(), "state")
				told, err := r.save(r.pass(path, os.O_CREATE|os.O_RDWR, 1), direct)
				if verr.Is(err, verr.ArgumentUnsupported) && direct {
					t.Skip(err)
				}
				if err != nil || strings.Join(told, " ") != "Stopped Progress Saved" {
					t.Fatalf("told %v, error %v", told, err)
				}
				r.stop()
				resp, err := r.driver.Restore(t.Context(), &pb.RestoreRequest{
					Start: r.startRequest(true), Token: r.pass(path, os.O_RDONLY, 2), Format: format, BypassCache: direct,
				}, func(*pb.SaveProgress) {})
				if err != nil {
					t.Fatal(err)
				}
				if c := resp.GetChange(); c.GetState() != pb.State_STATE_PAUSED || c.GetReason() != 1 || len(c.GetEvents()) != 0 {
					t.Errorf("change is %v, want paused by the user's wish", c)
				}
				r.stop()
			})
		}
	}
}

func TestUnknownFormatIsRefused(t *testing.T) {
	r := newRig(t, "")
	r.start(false)
	r.setFormat("lzop")
	if _, err := r.save(r.pass(filepath.Join(t.TempDir(), "state"), os.O_CREATE|os.O_RDWR, 1), false); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("saving as lzop: %v", err)
	}
	_, err := r.driver.Restore(t.Context(), &pb.RestoreRequest{Start: r.startRequest(true), Format: "xz"}, nil)
	if !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("restoring xz: %v", err)
	}
	r.stop()
}

func TestFullDiskIsNamedAndTheGuestGoesOn(t *testing.T) {
	r := newRig(t, "")
	r.start(false)
	_, err := r.save(r.pass("/dev/full", os.O_WRONLY, 1), false)
	if !verr.Is(err, verr.OperationFailed) || !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		t.Errorf("error is %v, want that the disk is full", err)
	}
	if c := r.core.WaitEvents(t, 1)[0].GetChange(); describe(c) != "running/7 lifecycle/4/0" {
		t.Errorf("heard %q", describe(c))
	}
	r.stop()
}

// stuckSave begins to save the guest to a pipe that nobody reads, which takes as long as a dead server's disk. It returns when the guest
// stands and the pipe is full, with how the save ends.
func (r *rig) stuckSave() <-chan error {
	r.t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(ends[0]) }) // so that the copy ends, too
	token := fdpass.Token{1}
	r.core.SendFile(token, os.NewFile(uintptr(ends[1]), "stuck"))
	saved := make(chan error, 1)
	stands := make(chan struct{})
	go func() {
		saved <- r.driver.Save(context.Background(), &pb.SaveRequest{Guest: r.guest, Token: token[:]}, func(m *pb.SaveResponse) error {
			if m.GetStopped() != nil {
				close(stands)
			}
			return nil
		})
	}()
	<-stands
	for before := 0; ; {
		waiting, err := unix.IoctlGetInt(ends[0], unix.TIOCINQ)
		if err != nil {
			r.t.Fatal(err)
		}
		if waiting == before && waiting > 0 {
			return saved
		}
		before = waiting
		time.Sleep(50 * time.Millisecond)
	}
}

func TestStuckDiskDoesNotKeepTheGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a disk")
	}
	r := newRig(t, "")
	r.start(false)
	saved := r.stuckSave()
	if _, err := r.save(nil, false); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("a second save: %v", err)
	}
	resp, err := r.driver.AbortSave(t.Context(), &pb.AbortSaveRequest{Guest: r.guest, Running: true})
	if err != nil || resp.GetChange().GetState() != pb.State_STATE_RUNNING {
		t.Errorf("after the save was given up: %v, error %v", resp, err)
	}
	if err := <-saved; !errors.Is(err, errGivenUp) {
		t.Errorf("save ends with %v", err)
	}
	r.stop()
}

// TestDriverThatEndsLetsItsGuestsGoOn ends the driver in the middle of a save, in order and not by a crash.
func TestDriverThatEndsLetsItsGuestsGoOn(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a disk")
	}
	r := newRig(t, "")
	handle := r.start(false).GetHandle()
	saved := r.stuckSave()
	r.restart()
	if err := <-saved; !errors.Is(err, errGivenUp) {
		t.Errorf("save ends with %v", err)
	}
	if c := r.recover(handle).GetChange(); describe(c) != "running/7" {
		t.Errorf("the guest is %s", describe(c))
	}
	r.stop()
}

// TestLoadedGuestIsPutAway: a driver that was lost before it had answered leaves a guest that has executed nothing.
func TestLoadedGuestIsPutAway(t *testing.T) {
	r := newRig(t, "")
	r.start(false)
	path := filepath.Join(t.TempDir(), "state")
	if _, err := r.save(r.pass(path, os.O_CREATE|os.O_RDWR, 1), false); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.restoreFrom(path, 2)
	l := r.driver.find(r.guest)
	if err := os.Remove(l.folder.path(memoryName)); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if v := r.recover(nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED {
		t.Errorf("verdict is %v, want not started", v)
	}
	r.nothingLeft()
	r.restoreFrom(path, 3)
	r.restart()
	resp := r.recover(nil)
	if resp.GetVerdict() != pb.Verdict_VERDICT_RUNNING || describe(resp.GetChange()) != "paused/11" {
		t.Errorf("verdict is %v, %v", resp.GetVerdict(), resp.GetChange())
	}
	resumed, err := r.driver.Resume(t.Context(), &pb.ResumeRequest{Guest: r.guest, Reason: 3})
	if err != nil || describe(resumed.GetChange()) != "running/3 lifecycle/4/2" {
		t.Errorf("resume: %v, error %v", resumed, err)
	}
	r.stop()
}

func (r *rig) restoreFrom(path string, n byte) {
	r.t.Helper()
	req := &pb.RestoreRequest{Start: r.startRequest(false), Token: r.pass(path, os.O_RDONLY, n), Format: stream.Raw}
	if _, err := r.driver.Restore(r.t.Context(), req, func(*pb.SaveProgress) {}); err != nil {
		r.t.Fatal(err)
	}
}
