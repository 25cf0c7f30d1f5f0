package address_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

func TestParsePCI(t *testing.T) {
	tests := []struct {
		text string
		want address.PCI
		ok   bool
	}{
		{"0000:00:1f.2", address.PCI{Slot: 0x1f, Function: 2}, true},
		{"ffffffff:ff:1f.7", address.PCI{Domain: 0xffffffff, Bus: 0xff, Slot: 0x1f, Function: 7}, true},
		{"0:100:0.0", address.PCI{}, false},
		{"0:0:20.0", address.PCI{}, false},
		{"0:0:0.8", address.PCI{}, false},
		{"100000000:0:0.0", address.PCI{}, false},
		{"0.0:0:0", address.PCI{}, false},
		{"0:0:0", address.PCI{}, false},
		{"-1:0:0.0", address.PCI{}, false},
		{"", address.PCI{}, false},
	}
	for _, tt := range tests {
		got, err := address.ParsePCI(tt.text)
		if (err == nil) != tt.ok || (tt.ok && got != tt.want) {
			t.Errorf("ParsePCI(%q) = %v, %v", tt.text, got, err)
		}
	}
}

func FuzzParsePCI(f *testing.F) {
	f.Add("0000:00:1f.2")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := address.ParsePCI(s)
		if err != nil {
			return
		}
		if b, err := address.ParsePCI(a.String()); err != nil || a != b {
			t.Errorf("%q is read as %v, and that as %v (%v)", s, a, b, err)
		}
	})
}

func TestTargetIndex(t *testing.T) {
	for name, want := range map[string]uint{"vda": 0, "sdz": 25, "hdaa": 26, "xvdab": 27, "fdb": 1, "sda1": 0} {
		if got, err := address.TargetIndex(name); err != nil || got != want {
			t.Errorf("TargetIndex(%q) = %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "vd", "sdA", "disk", "vdaaaaa", "sd-"} {
		if n, err := address.TargetIndex(name); err == nil {
			t.Errorf("TargetIndex(%q) = %d, want an error", name, n)
		}
	}
}

func FuzzTargetIndex(f *testing.F) {
	f.Add("vdab")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := address.TargetIndex(s); err == nil && n > 475253 {
			t.Errorf("TargetIndex(%q) = %d", s, n)
		}
	})
}

func TestPCISetNamesBothDevices(t *testing.T) {
	s := address.NewPCISet()
	if err := s.AddBus(0, address.Root); err != nil {
		t.Fatal(err)
	}
	at := address.PCI{Slot: 5}
	if err := s.Reserve(at, address.PlugPCI, "disk 'vda'"); err != nil {
		t.Fatal(err)
	}
	err := s.Reserve(at, address.PlugPCI, "disk 'vdb'")
	if err == nil || !strings.Contains(err.Error(), "vda") || !strings.Contains(err.Error(), "vdb") {
		t.Errorf("got %v", err)
	}
	if s.Owner(at) != "disk 'vda'" {
		t.Error("a refused reservation changed the owner")
	}
}

func TestPCISetIsFullAfterItsSlots(t *testing.T) {
	s := address.NewPCISet()
	if err := s.AddBus(0, address.Root); err != nil {
		t.Fatal(err)
	}
	for i := range address.MaxSlot {
		if _, err := s.Next(address.Request{Plug: address.PlugPCI, Device: "d"}); err != nil {
			t.Fatalf("slot %d: %v", i, err)
		}
	}
	if _, err := s.Next(address.Request{Plug: address.PlugPCI, Device: "d"}); !errors.Is(err, address.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
}

func TestUSBPortsOfHubs(t *testing.T) {
	b := address.NewUSBBus(2)
	if err := b.Reserve("1", "hub"); err != nil {
		t.Fatal(err)
	}
	b.AddHub("1", 8)
	for _, want := range []string{"2", "1.1", "1.2"} {
		if got, ok := b.Next("device"); !ok || got != want {
			t.Errorf("next port is %q, want %q", got, want)
		}
	}
	for _, port := range []string{"3", "1.9", "2.1", "1.1", "0", "x", "1.1.1.1.1.1"} {
		if err := b.Reserve(port, "device"); err == nil {
			t.Errorf("port %q was given away", port)
		}
	}
}
