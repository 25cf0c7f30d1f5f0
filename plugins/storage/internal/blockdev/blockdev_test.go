package blockdev_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func open(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteString(content)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func none(uint64, uint64) {}

func TestACopyFillsItsPlaceAndNothingElse(t *testing.T) {
	in, out := open(t, "content"), open(t, "aaaaaaaaaaaaaaaaaaaa")
	if err := blockdev.Copy(t.Context(), in, out, 5, 10, none); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out.Name())
	if want := []byte("aaaaacontent\x00\x00\x00aaaaa"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("it is %q, want %q, error %v", got, want, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := blockdev.Copy(ctx, in, out, 0, 10, none); !verr.Is(err, verr.OperationAborted) {
		t.Errorf("given up: %v", err)
	}
}

func TestANodeIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	made := make(chan error, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		made <- errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 100))
	}()
	if err := errors.Join(blockdev.Wait(t.Context(), path, 100), <-made); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := blockdev.Wait(ctx, path, 101); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("a node that is too small: %v", err)
	}
}

func TestWhatANodeTells(t *testing.T) {
	f := open(t, "")
	if err := blockdev.Own(f.Name(), &poolxml.Permissions{Mode: "0640"}); err != nil {
		t.Fatal(err)
	}
	v := &pb.Volume{Path: f.Name()}
	if blockdev.Describe(v); v.GetPermissions().GetMode() != 0o640 || v.GetTimestamps() == nil || v.GetTrouble() != "" {
		t.Errorf("it is %v", v)
	}
	v = &pb.Volume{Name: "v", Path: f.Name() + "-missing"}
	if blockdev.Describe(v); v.GetTrouble() == "" {
		t.Errorf("one that is missing is %v", v)
	}
	if _, err := blockdev.Open(v, os.O_RDWR); !verr.Is(err, verr.SystemError) {
		t.Errorf("one that is missing is opened: %v", err)
	}
	if err := blockdev.Check(f.Name()); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("a file is taken for a device: %v", err)
	}
	if err := blockdev.Wipe(t.Context(), &pb.Volume{Path: f.Name()}, 99, none); !verr.Is(err, verr.SystemError) {
		t.Errorf("wiped by an algorithm that is none: %v", err)
	}
}

func TestSignatures(t *testing.T) {
	f := open(t, "")
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if found, err := blockdev.Signatures(t.Context(), f.Name()); err != nil || len(found) > 0 {
		t.Errorf("nothing is %v, error %v", found, err)
	}
	if _, err := f.WriteAt([]byte("SWAPSPACE2"), 4096-10); err != nil { // without a header it is nothing yet
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 0, 0, 0, 255, 0, 0, 0}, 1024); err != nil {
		t.Fatal(err)
	}
	if found, err := blockdev.Signatures(t.Context(), f.Name()); err != nil || len(found) != 1 || found[0] != "swap" {
		t.Errorf("a swap space is %v, error %v", found, err)
	}
}
