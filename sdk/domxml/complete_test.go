package domxml_test

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestCompleteAddsWhatLibvirtAdds(t *testing.T) {
	d, err := domxml.Parse(minimal)
	if err != nil {
		t.Fatal(err)
	}
	if err := domxml.Complete(d); err != nil {
		t.Fatal(err)
	}
	if _, err := domxml.ParseUUID(d.UUID); err != nil {
		t.Errorf("uuid %q: %v", d.UUID, err)
	}
	d.UUID = "0"
	got, err := domxml.Format(d)
	if err != nil {
		t.Fatal(err)
	}
	const want = `<domain type='test'>
  <name>x</name>
  <uuid>0</uuid>
  <memory unit='KiB'>2048</memory>
  <currentMemory unit='KiB'>2048</currentMemory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
  </devices>
</domain>
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestCompleteReadsSizes(t *testing.T) {
	for in, want := range map[string]string{
		"<memory unit='MB'>100</memory>":                                       "<memory unit='KiB'>97657</memory>\n  <currentMemory unit='KiB'>97657<",
		"<memory unit='b'>1</memory>":                                          "<memory unit='KiB'>1<",
		"<memory unit='g'>1</memory><currentMemory unit='M'>1</currentMemory>": "<currentMemory unit='KiB'>1024<",
		"<memory>10</memory><currentMemory>11</currentMemory>":                 "<currentMemory unit='KiB'>10<",
		"<memory>10</memory><vcpu current='2'>2</vcpu>":                        "<vcpu placement='static'>2<",
		"<memory>10</memory><vcpu current='1'>2</vcpu>":                        "<vcpu placement='static' current='1'>2<",
	} {
		got, err := define(strings.Replace(minimal, "<memory>2048</memory>", in, 1))
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: got %v\n%s", in, err, got)
		}
	}
}

func TestCompleteRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		code     verr.Code
	}{
		"no type":             {" type='test'", "", verr.Internal},
		"no name":             {"<name>x</name>", "", 21},
		"a slash in the name": {">x<", ">a/b<", verr.XMLError},
		"a line in the name":  {">x<", ">a\nb<", verr.XMLError},
		"a line in the title": {"<os>", "<title>a\nb</title><os>", verr.XMLError},
		"a malformed uuid":    {"<os>", "<uuid>zz</uuid><os>", verr.Internal},
		"no memory":           {"2048", "0", verr.XMLError},
		"an unknown unit":     {"<memory>", "<memory unit='foo'>", verr.InvalidArg},
		"a huge size":         {"<memory>", "<memory unit='EiB'>", verr.Overflow},
		"too many vcpus now":  {"<os>", "<vcpu current='3'>2</vcpu><os>", verr.ConfigUnsupported},
		"no os type":          {"<type>hvm</type>", "", verr.XMLError},
		"an unknown os type":  {">hvm<", ">foo<", verr.ConfigUnsupported},
		"an unknown clock":    {"<os>", "<clock offset='foo'/><os>", verr.ConfigUnsupported},
		"an unknown action":   {"<os>", "<on_crash>foo</on_crash><os>", verr.ConfigUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := define(strings.Replace(minimal, c.from, c.to, 1))
			if !verr.Is(err, c.code) {
				t.Errorf("got %v, want code %d", err, c.code)
			}
		})
	}
}

func TestUUIDsInEveryForm(t *testing.T) {
	const want = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	for _, s := range []string{want, strings.ToUpper(want), strings.ReplaceAll(want, "-", ""), " " + want + "\n"} {
		if id, err := domxml.ParseUUID(s); err != nil || id.String() != want {
			t.Errorf("%q: got %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "6695", want + "0", strings.Replace(want, "6", "g", 1)} {
		if id, err := domxml.ParseUUID(s); err == nil {
			t.Errorf("%q: got %v", s, id)
		}
	}
}

func TestSummary(t *testing.T) {
	d, err := domxml.Parse(strings.Replace(printed, ">2</vcpu>", " current='1'>2</vcpu>", 1))
	if err != nil {
		t.Fatal(err)
	}
	d.Title, d.CurrentMemory.Value = "t", 7
	s := domxml.Summarize(d)
	got := []any{s.Name, s.Title, s.OsType, s.MaxMemoryKib, s.MemoryKib, s.MaxVcpus, s.Vcpus, s.HasSecrets}
	want := []any{"x", "t", "hvm", uint64(97657), uint64(7), uint32(2), uint32(1), false}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("figure %d: got %v, want %v", i, got[i], want[i])
		}
	}
	d.Devices.Graphics[0].VNC.Passwd = "p"
	if !domxml.Summarize(d).HasSecrets {
		t.Error("a password is no secret")
	}
}

func TestDisksToLock(t *testing.T) {
	d, err := domxml.Parse(`<domain type='test'><name>x</name><devices>
		<disk type='file'><source file='/a'/><target dev='vda'/></disk>
		<disk type='block'><source dev='/dev/b'/><target dev='vdb'/><shareable/></disk>
		<disk type='file'><source file='/c'/><target dev='vdc'/><readonly/></disk>
		<disk type='file' device='cdrom'><source file='/d'/><target dev='hdc'/></disk>
		<disk type='file' device='floppy'><target dev='fda'/></disk>
		<disk type='network'><source protocol='nbd' name='e'/><target dev='vde'/></disk>
	</devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	got := domxml.WritableDisks(d)
	want := []domxml.LockedDisk{{Target: "vda", Path: "/a"}, {Target: "vdb", Path: "/dev/b", Shareable: true}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v", got)
	}
	if all := domxml.LocalDisks(d); len(all) != 4 || !all[2].ReadOnly || !all[3].ReadOnly {
		t.Errorf("got %+v", all)
	}
}
