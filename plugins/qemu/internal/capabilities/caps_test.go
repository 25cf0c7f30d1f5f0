package capabilities

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// pretended is a small QEMU.
func pretended() *probe.Binary {
	return &probe.Binary{
		Path: "/q/qemu-system-x86_64", Arch: "x86_64", KVM: true, KVMMaxVCPUs: 200,
		Machines: []probe.Machine{
			{Name: "pc-q35-9.9", Alias: "q35", MaxCPUs: 288},
			{Name: "pc-i440fx-1.0", MaxCPUs: 255, Deprecated: true},
			{Name: "pc-i440fx-9.9", Alias: "pc", Default: true, MaxCPUs: 255},
		},
		CPUs: map[string]probe.CPUs{
			"qemu": {Vendor: "AuthenticAMD", Best: []string{"a", "b", "c", "fxsr-opt", "hypervisor", "kvm-clock", "vmx-ept"}, Models: []probe.CPUModel{
				{Name: "EPYC", Usable: true, Features: []string{"a", "b", "d", "hypervisor"}},
				{Name: "Nehalem", Usable: true, Features: []string{"a", "b", "c", "fxsr-opt", "hypervisor"}},
				{Name: "qemu64", Usable: false, Blockers: []string{"z"}, Features: []string{"hypervisor"}},
				{Name: "athlon", Usable: true, Deprecated: true, Features: []string{"a", "hypervisor"}},
				{Name: "NotLibvirts", Usable: true, Features: []string{"a", "b", "c", "fxsr-opt"}},
			}},
			"kvm": {Vendor: "GenuineIntel", Models: []probe.CPUModel{{Name: "EPYC", Features: []string{"a", "b", "d", "x2apic"}}}},
		},
		Types:   []string{"ich9-ahci", "iothread", "isa-fdc", "memory-backend-file", "scsi-hd", "tpm-emulator", "tpm-tis", "virtio-blk-pci"},
		Options: map[string][]string{"vnc": {"vnc"}},
	}
}

func noLookup(path string) (*probe.Binary, error) { return nil, errors.New("no such file") }

func choose(t *testing.T, machine, virtType string) Choice {
	t.Helper()
	c, err := Choose([]*probe.Binary{pretended()}, noLookup, "", "x86_64", machine, virtType)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChoiceFillsInDefaults(t *testing.T) {
	other := pretended()
	other.Path, other.KVM = "/elsewhere/qemu", false
	lookup := func(path string) (*probe.Binary, error) {
		if path != other.Path {
			return nil, errors.New("no such file")
		}
		return other, nil
	}
	for _, tc := range []struct{ emulator, arch, machine, virtType, want, fault string }{
		{"", "x86_64", "", "", "/q/qemu-system-x86_64 pc-i440fx-9.9 kvm", ""},
		{"", "x86_64", "q35", "qemu", "/q/qemu-system-x86_64 pc-q35-9.9 qemu", ""},
		{"/elsewhere/qemu", "", "pc-i440fx-1.0", "", "/elsewhere/qemu pc-i440fx-1.0 qemu", ""},
		{"/elsewhere/qemu", "", "", "kvm", "", "KVM is not supported by '/elsewhere/qemu' on this host"},
		{"/elsewhere/qemu", "i686", "", "", "", "architecture from emulator 'x86_64' doesn't match given architecture 'i686'"},
		{"/nowhere", "", "", "", "", "cannot use emulator '/nowhere': no such file"},
		{"", "ppc64", "", "", "", "unable to find any emulator to serve 'ppc64' architecture"},
		{"", "x86_64", "vax", "", "", "the machine 'vax' is not supported by emulator '/q/qemu-system-x86_64'"},
		{"", "x86_64", "", "xen", "", "unknown virttype: xen"},
	} {
		c, err := Choose([]*probe.Binary{pretended()}, lookup, tc.emulator, tc.arch, tc.machine, tc.virtType)
		if tc.fault != "" {
			if !verr.Is(err, verr.InvalidArg) || err.Error() != tc.fault {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || c.Binary.Path+" "+c.Machine.Name+" "+c.VirtType != tc.want {
			t.Errorf("%+v: %v, %v", tc, c, err)
		}
	}
}

func TestGuestsListTheDefaultMachineFirst(t *testing.T) {
	second := pretended()
	second.Path = "/shadowed"
	text, err := Guests([]*probe.Binary{pretended(), second})
	if err != nil {
		t.Fatal(err)
	}
	var caps libvirtxml.Caps
	if err := caps.Unmarshal("<capabilities>" + text + "</capabilities>"); err != nil {
		t.Fatal(err)
	}
	if len(caps.Guests) != 1 {
		t.Fatalf("%d guests", len(caps.Guests))
	}
	got := []string{}
	for _, m := range caps.Guests[0].Arch.Machines {
		got = append(got, m.Name+"/"+m.Canonical+"/"+m.Deprecated)
	}
	want := []string{"pc-i440fx-9.9//", "pc/pc-i440fx-9.9/", "pc-q35-9.9//", "q35/pc-q35-9.9/", "pc-i440fx-1.0//yes"}
	if !slices.Equal(got, want) {
		t.Errorf("machines %v", got)
	}
	validate(t, "capability", "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>"+text+"</capabilities>")
}

func TestHostModelNeedsTheFewestChanges(t *testing.T) {
	got, ok := HostModel(pretended(), "qemu")
	if !ok || got.Model != "EPYC" || got.Vendor != "AMD" || !slices.Equal(got.Require, []string{"c", "fxsr_opt"}) || !slices.Equal(got.Disable, []string{"d"}) {
		t.Errorf("got %+v", got)
	}
	if got, ok := HostModel(pretended(), "kvm"); ok {
		t.Errorf("without knowing the host: %+v", got)
	}
}

func TestHostCPUIsASupersetOfItsModel(t *testing.T) {
	const amd = "processor: 0\nvendor_id: AuthenticAMD\nflags: a b c fxsr_opt unknown_flag\n\nprocessor: 1\nvendor_id: X\nflags: d"
	got, ok := HostCPU(pretended(), amd)
	if !ok || got.Model != "athlon" || !slices.Equal(got.Require, []string{"b", "c", "fxsr_opt"}) || got.Disable != nil {
		t.Errorf("got %+v", got)
	}
	if got, ok = HostCPU(pretended(), strings.Replace(amd, "a b c", "a b c d", 1)); !ok || got.Model != "EPYC" {
		t.Errorf("with all of EPYC: %+v", got)
	}
	if got, ok = HostCPU(pretended(), ""); ok {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestHostXMLIsWellFormed(t *testing.T) {
	text, err := HostXML(&CPU{Model: "EPYC", Vendor: "AMD", Require: []string{"c"}}, []libvirtxml.CapsHostSecModel{
		{Name: "dac", DOI: "0", Labels: []libvirtxml.CapsHostSecModelLabel{{Type: "kvm", Value: "+0:+0"}}},
	})
	want := `<cpu><model>EPYC</model><vendor>AMD</vendor><feature name="c"></feature></cpu>` +
		`<secmodel><model>dac</model><doi>0</doi><baselabel type="kvm">+0:+0</baselabel></secmodel>`
	if err != nil || text != want {
		t.Errorf("%s, %v", text, err)
	}
}

func TestDomainCapabilitiesNameWhatIsThere(t *testing.T) {
	fw := []probe.Firmware{
		{Device: "flash", Interfaces: []string{"uefi"}, Executable: "/fw/plain", Targets: []probe.FirmwareTarget{{Arch: "x86_64", Machines: []string{"pc-*"}}}},
		{
			Device: "flash", Interfaces: []string{"uefi"}, Executable: "/fw/secure", Features: []string{"secure-boot", "requires-smm"},
			Targets: []probe.FirmwareTarget{{Arch: "x86_64", Machines: []string{"pc-q35-*"}}},
		},
	}
	for _, tc := range []struct {
		machine, virtType string
		installed         Installed
		has, hasNot       []string
	}{
		{
			"pc", "kvm",
			Installed{Firmware: fw, SwTPM: true},
			[]string{
				"<vcpu max='200'/>", "<machine>pc-i440fx-9.9</machine>", "<value>/fw/plain</value>", "<value>ide</value>", "<value>fdc</value>",
				"<mode name='host-passthrough' supported='yes'>", "<mode name='host-model' supported='no'/>", "<value>emulator</value>", "<tpm supported='yes'>",
			},
			[]string{"/fw/secure", "<value>spice</value>", "NotLibvirts"},
		},
		{
			"q35", "qemu",
			Installed{Firmware: fw},
			[]string{
				"<vcpu max='288'/>", "<value>/fw/secure</value>", "<mode name='host-passthrough' supported='no'/>", "<tpm supported='no'/>",
				"<model usable='no' vendor='unknown'>qemu64</model>", "<model usable='yes' deprecated='yes' vendor='AMD'>athlon</model>",
				"<model fallback='forbid'>EPYC</model>", "<feature policy='disable' name='d'/>", "<hostdev supported='no'/>",
			},
			[]string{"<value>ide</value>", "<value>emulator</value>", "<value>qxl</value>"},
		},
	} {
		doc, err := Domain(choose(t, tc.machine, tc.virtType), tc.installed)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tc.has {
			if !strings.Contains(doc, want) {
				t.Errorf("%s: no %s", tc.machine, want)
			}
		}
		for _, no := range tc.hasNot {
			if strings.Contains(doc, no) {
				t.Errorf("%s: has %s", tc.machine, no)
			}
		}
		if t.Failed() {
			t.Log(doc)
		}
		validate(t, "domaincaps", doc)
	}
}

func TestMaxVCPUsOfTheNativeEmulator(t *testing.T) {
	foreign := &probe.Binary{Arch: "vax", Machines: []probe.Machine{{Default: true, MaxCPUs: 1}}}
	if got := MaxVCPUs([]*probe.Binary{foreign}); len(got) != 0 {
		t.Errorf("foreign: %v", got)
	}
	b := pretended()
	if !b.Native("amd64") || b.Native("arm64") {
		t.Error("x86_64 is native on amd64 alone")
	}
}

func TestModelNames(t *testing.T) {
	for _, tc := range []struct {
		arch  string
		count int
		ok    bool
	}{{"x86_64", 58, true}, {"i686", 58, true}, {"aarch64", 0, true}, {"ppc64le", 7, true}, {"vax", 0, false}} {
		names, ok := Models(tc.arch)
		if len(names) != tc.count || ok != tc.ok {
			t.Errorf("%s: %d names, %t", tc.arch, len(names), ok)
		}
	}
}

func realBinaries(t *testing.T) []*probe.Binary {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, err := probe.New(probe.Options{}).All(ctx)
	if len(list) == 0 {
		t.Skipf("no emulator is installed: %v", err)
	}
	return list
}

func TestDocumentsOfRealQEMUAreValid(t *testing.T) {
	list := realBinaries(t)
	guests, err := Guests(list)
	if err != nil {
		t.Fatal(err)
	}
	validate(t, "capability", "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>"+guests+"</capabilities>")
	fw, err := probe.Firmwares(probe.DefaultFirmwareDirs)
	if err != nil {
		t.Error(err)
	}
	for _, b := range list {
		for _, virtType := range b.VirtTypes() {
			for _, m := range b.Machines {
				if m.Alias == "" {
					continue
				}
				doc, err := Domain(Choice{b, m, virtType}, Installed{Firmware: fw})
				if err != nil {
					t.Fatal(err)
				}
				validate(t, "domaincaps", doc)
			}
		}
	}
}

// QEMU itself says whether the host model is one that it can give: with enforce it refuses a feature that it cannot.
func TestRealQEMUTakesItsHostModel(t *testing.T) {
	for _, b := range realBinaries(t) {
		if b.Arch != "x86_64" {
			continue
		}
		for _, virtType := range b.VirtTypes() {
			cpu, ok := HostModel(b, virtType)
			if !ok {
				t.Errorf("%s: no host model under %s", b.Path, virtType)
				continue
			}
			t.Logf("%s under %s: %+v", b.Path, virtType, cpu)
			arg := cpu.Model
			for _, f := range cpu.Require {
				arg += "," + f + "=on"
			}
			for _, f := range cpu.Disable {
				arg += "," + f + "=off"
			}
			accel := map[string]string{"kvm": "kvm", "qemu": "tcg"}[virtType]
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			cmd := exec.CommandContext(ctx, b.Path, "-S", "-nodefaults", "-no-user-config", "-nographic", "-machine", "q35,accel="+accel,
				"-cpu", arg+",enforce", "-m", "16", "-monitor", "stdio")
			cmd.Stdin = strings.NewReader("quit\n")
			out, err := cmd.CombinedOutput()
			cancel()
			if err != nil {
				t.Errorf("%s under %s: %v\n%s", cpu.Model, virtType, err, out)
			}
		}
	}
}

func TestHostCPUOfThisMachine(t *testing.T) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip(err)
	}
	for _, b := range realBinaries(t) {
		if b.Arch == "x86_64" {
			cpu, ok := HostCPU(b, string(cpuinfo))
			t.Logf("%t %+v", ok, cpu)
			if !ok {
				t.Error("no model at all fits")
			}
		}
	}
}

// validate checks a document against libvirt's schema where both it and the validator are installed.
func validate(t *testing.T, schema, doc string) {
	t.Helper()
	rng := "/usr/share/libvirt/schemas/" + schema + ".rng"
	if _, err := os.Stat(rng); err != nil {
		return
	}
	if _, err := exec.LookPath("xmllint"); err != nil {
		return
	}
	cmd := exec.CommandContext(t.Context(), "xmllint", "--noout", "--relaxng", rng, "-")
	cmd.Stdin = strings.NewReader(doc)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", schema, err, out, doc)
	}
}

func FuzzHostCPU(f *testing.F) {
	f.Add("processor: 0\nvendor_id: AuthenticAMD\nflags: a b c fxsr_opt\n\nprocessor: 1\nflags: d")
	f.Fuzz(func(t *testing.T, cpuinfo string) {
		cpu, ok := HostCPU(pretended(), cpuinfo)
		if ok && (cpu.Model == "" || len(cpu.Disable) > 0) {
			t.Errorf("%q gave %+v", cpuinfo, cpu)
		}
	})
}
