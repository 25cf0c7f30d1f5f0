package driver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/test/internal/driver"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// open connects to a device of the scene's guest.
func (s *scene) open(device string, channel, force bool) (io.ReadWriteCloser, error) {
	return s.driver.OpenConsole(s.ctx(), &pb.ConsoleTarget{
		Guest: s.guest, Handle: s.handle, Device: device, Channel: channel, Force: force,
	})
}

// count reads the next number that the guest counts.
func count(t *testing.T, lines *bufio.Reader) int {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("read console: %v", err)
		}
		var n int
		if _, err := fmt.Sscanf(line, "guest: %d", &n); err == nil {
			return n
		}
	}
}

func TestConsoleCountsOnOverARestartOfTheDriver(t *testing.T) {
	s := newScene(t, "")
	s.started()
	before := s.countTwice(t)
	if err := s.driver.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.driver = driver.New(s.core)
	t.Cleanup(func() { _ = s.driver.Close(context.Background()) })
	if after := s.countTwice(t); after <= before {
		t.Errorf("the guest counted up to %d, and after the restart up to %d", before, after)
	}
}

func (s *scene) countTwice(t *testing.T) int {
	t.Helper()
	c, err := s.open("", false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	lines := bufio.NewReader(c)
	first := count(t, lines)
	if second := count(t, lines); second > first {
		return second
	}
	t.Fatalf("the guest does not count on from %d", first)
	return 0
}

func TestConsoleEchoesAndEndsWithTheGuest(t *testing.T) {
	s := newScene(t, "")
	s.started()
	c, err := s.open("serial0", false, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(c)
	for line := ""; line != "hello\n"; {
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.driver.Stop(s.ctx(), &pb.StopRequest{Guest: s.guest}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Errorf("the console ended with %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to a guest that is gone: %v", err)
	}
}

func TestConsoleOfEachDevice(t *testing.T) {
	s := newScene(t, "")
	s.xml = s.validate(strings.Replace(definition("guest", s.guest.Uuid), "<devices>",
		"<devices><channel type='unix'><target type='virtio' name='org.example'/></channel>", 1))
	s.started()
	for _, d := range []struct {
		device  string
		channel bool
	}{{"serial0", false}, {"channel0", true}} {
		c, err := s.open(d.device, d.channel, false)
		if err != nil {
			t.Fatalf("%s: %v", d.device, err)
		}
		if _, err := s.open(d.device, d.channel, false); !verr.Is(err, verr.OperationFailed) {
			t.Errorf("%s a second time: %v", d.device, err)
		}
		other, err := s.open(d.device, d.channel, true)
		if err != nil {
			t.Errorf("%s by force: %v", d.device, err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: the first connection ended with %v", d.device, err)
		}
		_ = c.Close() // frees nothing that is not its own
		if _, err := s.open(d.device, d.channel, false); !verr.Is(err, verr.OperationFailed) {
			t.Errorf("%s while the forced connection lasts: %v", d.device, err)
		}
		_ = other.Close()
		if c, err = s.open(d.device, d.channel, false); err != nil {
			t.Errorf("%s once it is free: %v", d.device, err)
		} else {
			_ = c.Close()
		}
	}
	if _, err := s.open("parallel0", false, false); err == nil {
		t.Error("a device that does not exist was opened")
	}
}
