package sample_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/plugins/test/internal/sample"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// libvirt answers as libvirt's own test:///default does, or skips the test where virsh is absent.
func libvirt(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("virsh"); err != nil {
		t.Skip("virsh is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-c", "test:///default"}, args...)...).Output()
	if err != nil {
		t.Skipf("virsh does not run: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func TestShowsWhatLibvirtShows(t *testing.T) {
	t.Run("capabilities", func(t *testing.T) {
		if got := strings.TrimSpace(sample.Capabilities()); got != libvirt(t, "capabilities") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("seed", func(t *testing.T) {
		if got := strings.TrimSpace(sample.Probe().GetSeeds()[0].GetXml()); got != libvirt(t, "dumpxml", "--inactive", "test") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("CPU models", func(t *testing.T) {
		names, err := sample.CPUModels("x86_64")
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Fields(libvirt(t, "cpu-models", "x86_64")); strings.Join(names, " ") != strings.Join(want, " ") {
			t.Errorf("got %q, want %q", names, want)
		}
	})
	t.Run("node", func(t *testing.T) {
		info := libvirt(t, "nodeinfo")
		if !strings.Contains(info, "3145728 KiB") || sample.Node().GetMemoryKib() != 3145728 || sample.Node().GetCpus() != 16 {
			t.Errorf("got %v, want\n%s", sample.Node(), info)
		}
	})
}

func TestSeedIsComplete(t *testing.T) {
	seed := sample.Probe().GetSeeds()[0].GetXml()
	d, err := domxml.Parse(seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := define.Complete(d); err != nil {
		t.Fatal(err)
	}
	if got, err := domxml.Format(d); err != nil || got != seed {
		t.Errorf("completing changes it: %v\n%s", err, got)
	}
}

func TestDomainCapabilitiesAreOfTheOnlyKind(t *testing.T) {
	xml, err := sample.DomainCapabilities("", "i686", "", "test")
	if err != nil || domxml.Check(xml, "domainCapabilities") != nil {
		t.Errorf("got %v\n%s", err, xml)
	}
	if _, err := sample.DomainCapabilities("", "", "", "kvm"); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("kvm: %v", err)
	}
	if _, err := sample.CPUModels("pdp11"); !verr.Is(err, verr.NoSupport) {
		t.Errorf("pdp11: %v", err)
	}
}
