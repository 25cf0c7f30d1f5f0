package define_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// testEnv is a QEMU 7.2 for x86_64.
func testEnv() define.Env {
	return define.Env{
		Emulator: "/usr/bin/qemu-system-x86_64", Arch: "x86_64", DefaultMachine: "pc", KVM: true,
		Machines: map[string]string{
			"pc": "pc-i440fx-7.2", "pc-i440fx-7.2": "pc-i440fx-7.2", "q35": "pc-q35-7.2", "pc-q35-7.2": "pc-q35-7.2",
			"microvm": "microvm",
		},
	}
}

func complete(t *testing.T, text string) (*libvirtxml.Domain, error) {
	t.Helper()
	d, err := domxml.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := domxml.Complete(d); err != nil {
		return nil, err
	}
	return d, define.Complete(d, testEnv())
}

var (
	// tag is an element's start, attribute one of its attributes.
	tag       = regexp.MustCompile(`<[a-z0-9_-]+( [a-zA-Z_]+='[^']*')+`)
	attribute = regexp.MustCompile(`( [a-zA-Z_]+='[^']*')`)
	// port is the one number that libvirt prints in hexadecimal where libvirtxml prints it in decimal.
	port = regexp.MustCompile(`port='0x([0-9a-f]+)'`)
)

// canonical makes text comparable: the order of attributes and the notation of that number do not matter.
func canonical(s string) string {
	s = port.ReplaceAllStringFunc(s, func(m string) string {
		n, _ := strconv.ParseUint(port.FindStringSubmatch(m)[1], 16, 32)
		return "port='" + strconv.FormatUint(n, 10) + "'"
	})
	return tag.ReplaceAllStringFunc(s, func(m string) string {
		attributes := attribute.FindAllString(m, -1)
		slices.Sort(attributes)
		return m[:strings.IndexByte(m, ' ')] + strings.Join(attributes, "")
	})
}

// The .out.xml files are what libvirt 9.0.0 with QEMU 7.2 prints for the .in.xml files.
func TestLabelsOfALivingGuestAreForgotten(t *testing.T) {
	dynamic := libvirtxml.DomainSecLabel{Type: "dynamic", Model: "dac", Relabel: "yes"}
	based := dynamic
	based.BaseLabel = "+7:+7"
	shown := dynamic
	shown.Label, shown.ImageLabel = "+0:+0", "+0:+0"
	complete := func(id *int) []libvirtxml.DomainSecLabel {
		d := &libvirtxml.Domain{
			ID: id, Type: "qemu", OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm"}},
			SecLabel: []libvirtxml.DomainSecLabel{shown, based},
		}
		if err := define.Complete(d, testEnv()); err != nil {
			t.Fatal(err)
		}
		return d.SecLabel
	}
	id := 1
	if diff := cmp.Diff([]libvirtxml.DomainSecLabel{based}, complete(&id)); diff != "" {
		t.Errorf("of a guest: %s", diff)
	}
	if diff := cmp.Diff([]libvirtxml.DomainSecLabel{dynamic, based}, complete(nil)); diff != "" {
		t.Errorf("of a definition: %s", diff)
	}
}

func TestCompleteGivesWhatLibvirtGives(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.xml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no test data", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".in.xml")
		t.Run(name, func(t *testing.T) {
			d, err := complete(t, read(t, in))
			if err != nil {
				t.Fatal(err)
			}
			got := format(t, d)
			if diff := cmp.Diff(canonical(read(t, "testdata/"+name+".out.xml")), canonical(got)); diff != "" {
				t.Errorf("-libvirt +ours:\n%s", diff)
			}
			again, err := complete(t, got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, format(t, again)); diff != "" {
				t.Errorf("completing a completed definition changed it:\n%s", diff)
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func format(t *testing.T, d *libvirtxml.Domain) string {
	t.Helper()
	s, err := domxml.Format(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// guest wraps devices in a small domain.
func guest(machine, devices string) string {
	return "<domain type='qemu'><name>g</name><memory>65536</memory><vcpu>1</vcpu><os><type machine='" + machine +
		"'>hvm</type></os><devices>" + devices + "</devices></domain>"
}

func disk(target, address string) string {
	return "<disk type='file'><source file='/d/" + target + "'/><target dev='" + target + "'/>" + address + "</disk>"
}

func pci(bus, slot, function string) string {
	return "<address type='pci' bus='" + bus + "' slot='" + slot + "' function='" + function + "'/>"
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, xml string
		code      verr.Code
		says      string
	}{
		{
			"two devices at one PCI address", guest("pc", disk("vda", pci("0", "5", "0"))+disk("vdb", pci("0", "5", "0"))),
			verr.XMLError, "0000:00:05.0 by disk 'vda' and disk 'vdb'",
		},
		{"PCI bus too large", guest("pc", disk("vda", pci("0x100", "5", "0"))), verr.XMLError, "bus='0x100'"},
		{"PCI slot too large", guest("pc", disk("vda", pci("0", "0x20", "0"))), verr.XMLError, "slot='0x20'"},
		{"PCI function too large", guest("pc", disk("vda", pci("0", "5", "8"))), verr.XMLError, "function='0x8'"},
		{
			"PCI domain that the machine lacks",
			guest("pc", disk("vda", "<address type='pci' domain='0x10000' bus='0' slot='5' function='0'/>")),
			verr.XMLError, "only PCI domain 0",
		},
		{"slot 0 of the root bus", guest("pc", disk("vda", pci("0", "0", "1"))), verr.XMLError, "slot must be between 1 and 31"},
		{"second slot of a root port", guest("q35", disk("vda", pci("1", "1", "0"))), verr.XMLError, "between 0 and 0"},
		{"disk in the place of the ISA bridge", guest("pc", disk("vda", pci("0", "1", "0"))), verr.XMLError, "ISA bridge"},
		{"disk in the place of SATA", guest("q35", disk("vda", pci("0", "0x1f", "2"))), verr.XMLError, "sata controller 0"},
		{
			"multifunction off, but two functions",
			guest("pc", disk("vda", "<address type='pci' bus='0' slot='5' function='0' multifunction='off'/>")+
				disk("vdb", pci("0", "5", "1"))), verr.XMLError, "multifunction is off",
		},
		{"two disks of one name", guest("pc", disk("vda", "")+disk("vda", "")), verr.XMLError, "target 'vda' duplicated"},
		{
			"two disks in one drive unit",
			guest("pc", disk("sda", "<address type='drive' controller='0' bus='0' target='0' unit='1'/>")+disk("sdb", "")),
			verr.XMLError, "duplicate drive address",
		},
		{"a bus that QEMU lacks", guest("pc", disk("xvda", "")), verr.ConfigUnsupported, "disk bus 'xen'"},
		{"IDE on q35", guest("q35", disk("hda", "")), verr.ConfigUnsupported, "IDE controllers are unsupported"},
		{"a second IDE controller", guest("pc", disk("hde", "")), verr.ConfigUnsupported, "single IDE controller"},
		{"a machine without PCI", guest("microvm", ""), verr.ConfigUnsupported, "machine type 'microvm'"},
		{"a machine unknown to QEMU", guest("pc-9", ""), verr.ConfigUnsupported, "'pc-9'"},
		{
			"root controller of the wrong model", guest("pc", "<controller type='pci' index='0' model='pcie-root'/>"),
			verr.XMLError, "must be model='pci-root'",
		},
		{"a root port on pc", guest("pc", "<controller type='pci' index='1' model='pcie-root-port'/>"), verr.ConfigUnsupported, "pcie-root-port"},
		{"USB device without USB", guest("pc", "<controller type='usb' model='none'/><input type='tablet' bus='usb'/>"), verr.ConfigUnsupported, "USB is disabled"},
		{"multicast MAC", guest("pc", "<interface type='user'><mac address='01:00:00:00:00:01'/></interface>"), verr.XMLError, "multicast"},
		{"same boot order twice", guest("pc", disk("vda", "<boot order='1'/>")+disk("vdb", "<boot order='1'/>")), verr.XMLError, "boot order '1'"},
		{"unknown sound card", guest("pc", "<sound model='gus'/>"), verr.ConfigUnsupported, "'gus'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := complete(t, tt.xml)
			if !verr.Is(err, tt.code) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want code %d and %q", err, tt.code, tt.says)
			}
		})
	}
}

func TestManyDisksGetBridges(t *testing.T) {
	for _, machine := range []string{"pc", "q35"} {
		var b strings.Builder
		for i := range 60 {
			b.WriteString(disk("vd"+string(rune('a'+i/26))+string(rune('a'+i%26)), ""))
		}
		d, err := complete(t, guest(machine, b.String()))
		if err != nil {
			t.Fatalf("%s: %v", machine, err)
		}
		seen := map[string]bool{}
		for _, k := range d.Devices.Disks {
			a := k.Address.PCI
			key := strconv.Itoa(int(*a.Bus)) + ":" + strconv.Itoa(int(*a.Slot)) + "." + strconv.Itoa(int(*a.Function))
			if seen[key] {
				t.Errorf("%s: %s has address %s of another disk", machine, k.Target.Dev, key)
			}
			seen[key] = true
		}
	}
}
