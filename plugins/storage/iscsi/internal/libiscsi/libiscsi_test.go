//go:build libiscsi && cgo

package libiscsi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/tgttest"
)

const (
	target = "iqn.2012-11.org.lodge.test:disks"
	self   = "iqn.2012-11.org.lodge.test:self"
	// flat is added to numbers of units from 256 on.
	flat = 0x4000
)

func login(s *tgttest.Server) initiator.Login {
	return initiator.Login{Portal: s.Portal, Initiator: self, Target: target, Timeout: 2 * time.Second}
}

func open1(t *testing.T, l initiator.Login) initiator.Session {
	t.Helper()
	s, err := Initiator{}.Open(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUnitsAreListedAndReadAndWritten(t *testing.T) {
	server := tgttest.Start(t)
	a, b := tgttest.File(t, 8<<20), tgttest.File(t, 64<<20)
	server.Target(target, a)
	server.Disk(1, 300, b, "--blocksize", "4096")
	s := open1(t, login(server))
	defer s.Close()
	luns, err := s.LUNs(t.Context())
	if err != nil || !slices.Equal(luns, []int{0, 1, flat + 300}) {
		t.Errorf("units %v, error %v", luns, err)
	}
	if _, err := s.Unit(t.Context(), 0); !errors.Is(err, initiator.ErrNotDisk) {
		t.Errorf("the controller is a disk: %v", err)
	}
	for lun, want := range map[int]struct {
		file string
		size uint64
	}{1: {a, 8 << 20}, flat + 300: {b, 64 << 20}} {
		u, err := s.Unit(t.Context(), lun)
		if err != nil || u.Capacity().Bytes() != want.size {
			t.Fatalf("unit %d: %v, error %v", lun, u, err)
		}
		data := make([]byte, 256<<10)
		_, _ = rand.Read(data)
		at := uint64(1 << 20)
		if err := errors.Join(u.Write(t.Context(), at/uint64(u.Capacity().BlockSize), data), u.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(data))
		if err := u.Read(t.Context(), at/uint64(u.Capacity().BlockSize), back); err != nil || !bytes.Equal(back, data) {
			t.Errorf("unit %d reads back something else, error %v", lun, err)
		}
		onDisk, err := os.ReadFile(want.file)
		if err != nil || !bytes.Equal(onDisk[at:at+uint64(len(data))], data) {
			t.Errorf("unit %d has something else on its disk, error %v", lun, err)
		}
		if err := u.Read(t.Context(), u.Capacity().Blocks, back); err == nil {
			t.Error("what is behind the end is read")
		}
	}
	var check *initiator.CheckError
	if _, err := s.Unit(t.Context(), 77); err == nil || errors.As(err, &check) == errors.Is(err, initiator.ErrNotDisk) {
		t.Errorf("a unit that is not there: %v", err)
	}
}

func TestTargetsAreFound(t *testing.T) {
	server := tgttest.Start(t)
	for n := range 3 {
		server.Target(fmt.Sprint(target, n), tgttest.File(t, 1<<20))
	}
	found, err := Initiator{}.Discover(t.Context(), login(server))
	if err != nil || len(found) != 3 || !strings.HasPrefix(found[0].Name, target) || len(found[0].Portals) != 1 {
		t.Errorf("found %v, error %v", found, err)
	}
}

func TestWhoIsNotLetIn(t *testing.T) {
	server := tgttest.Start(t)
	id := server.Target(target, tgttest.File(t, 1<<20))
	server.CHAP(id, "user", "right password")
	for name, c := range map[string]struct {
		change func(*initiator.Login)
		want   error
	}{
		"nobody":           {func(*initiator.Login) {}, initiator.ErrDenied},
		"a wrong password": {func(l *initiator.Login) { l.User, l.Password = "user", []byte("wrong password") }, initiator.ErrDenied},
		"a wrong user":     {func(l *initiator.Login) { l.User, l.Password = "other", []byte("right password") }, initiator.ErrDenied},
		"no such target":   {func(l *initiator.Login) { l.Target += "x" }, initiator.ErrNoTarget},
		"no server":        {func(l *initiator.Login) { l.Portal = "127.0.0.1:1" }, initiator.ErrLost},
	} {
		l := login(server)
		c.change(&l)
		_, err := Initiator{}.Open(t.Context(), l)
		if !errors.Is(err, c.want) || bytes.Contains([]byte(fmt.Sprint(err)), []byte("password")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l := login(server)
	l.User, l.Password = "user", []byte("right password")
	open1(t, l).Close()
}

func TestAServerThatStopsAnswering(t *testing.T) {
	server := tgttest.Start(t)
	server.Target(target, tgttest.File(t, 8<<20))
	s := open1(t, login(server))
	u, err := s.Unit(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	server.Pause()
	begun := time.Now()
	if err := u.Write(t.Context(), 0, make([]byte, 256<<10)); !errors.Is(err, initiator.ErrTimeout) {
		t.Errorf("a write ends with %v", err)
	}
	if err := u.Write(t.Context(), 0, make([]byte, 512)); !errors.Is(err, initiator.ErrTimeout) {
		t.Errorf("the session lives on: %v", err)
	}
	s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := (Initiator{}).Open(ctx, login(server)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a login ends with %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	server.Resume()
	open1(t, login(server)).Close()
}

func TestAServerThatDies(t *testing.T) {
	server := tgttest.Start(t)
	server.Target(target, tgttest.File(t, 8<<20))
	s := open1(t, login(server))
	defer s.Close()
	u, err := s.Unit(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := u.Read(t.Context(), 0, make([]byte, 512)); !errors.Is(err, initiator.ErrLost) {
		t.Errorf("a read ends with %v", err)
	}
}
