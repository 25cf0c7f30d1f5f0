package hardware_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/hardware"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// rich has one of each device.
const rich = `<domain type='vmware'>
  <name>50% of a/b</name>
  <uuid>564d9bef-acd9-b4e0-c8f0-aea8b9103515</uuid>
  <description>first line
second &lt;line&gt;</description>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <memtune>
    <min_guarantee unit='KiB'>1048576</min_guarantee>
  </memtune>
  <vcpu placement='static' cpuset='0-2,5'>4</vcpu>
  <cputune>
    <shares>4321</shares>
  </cputune>
  <os firmware='efi'>
    <type arch='x86_64'>hvm</type>
    <firmware>
      <feature enabled='yes' name='enrolled-keys'/>
      <feature enabled='yes' name='secure-boot'/>
    </firmware>
    <boot dev='network'/>
    <boot dev='hd'/>
    <bootmenu enable='yes'/>
  </os>
  <cpu>
    <topology sockets='2' dies='1' cores='2' threads='1'/>
  </cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver cache='writethrough'/>
      <source file='[store 1] dir/a.vmdk'/>
      <target dev='sda' bus='scsi'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='[store 1] dir/b.vmdk'/>
      <target dev='sdq' bus='scsi'/>
      <transient/>
      <address type='drive' controller='1' bus='0' target='0' unit='1'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='[store 1] dir/c.vmdk'/>
      <target dev='sdc' bus='sata'/>
      <address type='drive' controller='0' bus='0' target='0' unit='2'/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='[iso] debian.iso'/>
      <target dev='hda' bus='ide'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hdd' bus='ide'/>
      <readonly/>
      <address type='drive' controller='0' bus='1' target='0' unit='1'/>
    </disk>
    <disk type='file' device='floppy'>
      <source file='[iso] boot.flp'/>
      <target dev='fda' bus='fdc'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='scsi' index='0' model='lsilogic'/>
    <controller type='scsi' index='1' model='vmpvscsi'/>
    <controller type='fdc' index='0'/>
    <controller type='ide' index='0'/>
    <controller type='sata' index='0'/>
    <interface type='bridge'>
      <mac address='00:50:56:00:00:07' type='static'/>
      <source bridge='VM Network'/>
      <model type='vmxnet3'/>
    </interface>
    <interface type='bridge'>
      <mac address='00:0c:29:3b:64:ea' type='generated'/>
      <source bridge='other'/>
      <model type='vmxnet2'/>
    </interface>
    <serial type='file'>
      <source path='[store 1] dir/serial.log'/>
      <target port='0'/>
    </serial>
    <serial type='tcp'>
      <source mode='connect' host='192.0.2.9' service='42001'/>
      <protocol type='telnet'/>
      <target port='1'/>
    </serial>
    <parallel type='dev'>
      <source path='/dev/parport0'/>
      <target port='0'/>
    </parallel>
    <console type='file'>
      <source path='[store 1] dir/serial.log'/>
      <target type='serial' port='0'/>
    </console>
    <video>
      <model type='vmvga' vram='4096' primary='yes'/>
    </video>
  </devices>
</domain>
`

// machine is what a host makes of a specification, as far as the driver sees it.
func machine(spec *types.VirtualMachineConfigSpec) *types.VirtualMachineConfigInfo {
	c := &types.VirtualMachineConfigInfo{
		Name: spec.Name, Uuid: spec.Uuid, Version: "vmx-13", GuestId: spec.GuestId, Annotation: spec.Annotation, Firmware: spec.Firmware,
		BootOptions: spec.BootOptions, CpuAllocation: spec.CpuAllocation, MemoryAllocation: spec.MemoryAllocation,
		CpuAffinity: spec.CpuAffinity, ExtraConfig: spec.ExtraConfig,
		Hardware: types.VirtualHardware{MemoryMB: int32(spec.MemoryMB), NumCPU: spec.NumCPUs, NumCoresPerSocket: spec.NumCoresPerSocket},
	}
	c.Hardware.Device = []types.BaseVirtualDevice{
		&types.VirtualIDEController{VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 200}}},
		&types.VirtualIDEController{VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 201}, BusNumber: 1}},
		&types.VirtualSIOController{VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 400}}},
		&types.VirtualMachineVideoCard{VirtualDevice: types.VirtualDevice{Key: 500}, VideoRamSizeInKB: 4096},
	}
	keys := map[int32]int32{}
	next := map[string]int32{"nic": 4000, "serial": 9000, "parallel": 10000, "": 20000}
	for _, change := range spec.DeviceChange {
		v := change.GetVirtualDeviceConfigSpec().Device
		kind := ""
		switch v.(type) {
		case types.BaseVirtualEthernetCard:
			kind = "nic"
		case *types.VirtualSerialPort:
			kind = "serial"
		case *types.VirtualParallelPort:
			kind = "parallel"
		}
		d := v.GetVirtualDevice()
		keys[d.Key] = next[kind]
		d.Key = next[kind]
		next[kind]++
		if key, ok := keys[d.ControllerKey]; ok {
			d.ControllerKey = key
		}
		c.Hardware.Device = append(c.Hardware.Device, v)
	}
	return c
}

// made defines a machine.
func made(t *testing.T, doc string) *types.VirtualMachineConfigInfo {
	t.Helper()
	d, err := hardware.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := hardware.Create(d)
	if err != nil {
		t.Fatal(err)
	}
	return machine(spec)
}

func printed(t *testing.T, c *types.VirtualMachineConfigInfo) string {
	t.Helper()
	doc, err := hardware.XML(c, hardware.Context{})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestADefinitionComesBackFromTheMachineMadeOfIt(t *testing.T) {
	c := made(t, rich)
	if c.Name != "50%25 of a%2fb" || c.GuestId != "otherGuest64" {
		t.Errorf("the machine is called %q and runs %q", c.Name, c.GuestId)
	}
	if got := printed(t, c); got != rich {
		t.Errorf("printed is\n%s\nwant\n%s", got, rich)
	}
}

func TestWhatIsThereAlreadyIsNotChanged(t *testing.T) {
	c := made(t, rich)
	d, err := hardware.Parse(printed(t, c))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := hardware.Change(c, d)
	if err != nil || spec != nil {
		t.Errorf("changes %+v, %v", spec, err)
	}
}

// operations spells the changes of devices.
func operations(spec *types.VirtualMachineConfigSpec) string {
	var words []string
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		kind := strings.TrimPrefix(strings.TrimPrefix(typeName(change.Device), "*types."), "Virtual")
		words = append(words, string(change.Operation)+" "+kind)
		if change.FileOperation != "" {
			words = append(words, string(change.FileOperation))
		}
	}
	return strings.Join(words, ", ")
}

func TestOnlyWhatDiffersIsChanged(t *testing.T) {
	for _, c := range []struct {
		name, from, to, want string
	}{
		{"another image", "dir/a.vmdk", "dir/z.vmdk", "remove Disk, add Disk"},
		{"another medium", "debian.iso", "fedora.iso", "edit Cdrom"},
		{"a medium that is taken out", "      <source file='[iso] debian.iso'/>\n", "", "edit Cdrom"},
		{"another port group", "bridge='other'", "bridge='third'", "edit Vmxnet2"},
		{"another model of card", "'vmxnet3'", "'e1000'", "remove Vmxnet3, add E1000"},
		{"another card", "00:0c:29:3b:64:ea", "00:0c:29:3b:64:eb", "remove Vmxnet2, add Vmxnet2"},
		{"a mode of a disk", "      <transient/>\n", "", "edit Disk"},
		{"a serial port that goes elsewhere", "42001", "42002", "edit SerialPort"},
		{"more video memory", "vram='4096'", "vram='8192'", "edit MachineVideoCard"},
		{"a floppy that is taken out", "      <source file='[iso] boot.flp'/>\n", "", "edit Floppy"},
		{"memory", ">4194304<", ">8388608<", ""},
		{"description", "first line", "line one", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := made(t, rich)
			if !strings.Contains(rich, c.from) {
				t.Fatalf("%q is nowhere", c.from)
			}
			d, err := hardware.Parse(strings.Replace(rich, c.from, c.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			spec, err := hardware.Change(m, d)
			if err != nil || spec == nil {
				t.Fatalf("changes %v, %v", spec, err)
			}
			if got := operations(spec); got != c.want {
				t.Errorf("operations are %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatESXLacksIsRefusedByName(t *testing.T) {
	for _, c := range []struct{ from, to, names string }{
		{"<video>", "<sound model='ich6'/><video>", "<sound>"},
		{"<video>", "<tpm model='tpm-tis'><backend type='emulator'/></tpm><video>", "<tpm>"},
		{"<video>", "<controller type='virtio-serial'/><video>", "virtio-serial"},
		{"<clock offset='utc'/>", "<clock offset='localtime'/>", "<clock>"},
		{"<on_crash>destroy", "<on_crash>restart", "<on_crash>"},
		{"bus='sata'", "bus='virtio'", "virtio"},
		{"type='vmxnet3'", "type='virtio'", "virtio"},
		{
			"<interface type='bridge'>\n      <mac address='00:50:56:00:00:07' type='static'/>\n      <source bridge='VM Network'/>",
			"<interface type='user'>\n", "<interface>",
		},
		{"[store 1] dir/a.vmdk", "[store 1] dir/../../a.vmdk", "[store 1] dir/../../a.vmdk"},
		{"[store 1] dir/a.vmdk", "dir/a.vmdk", "dir/a.vmdk"},
		{"<memtune>", "<memtune><hard_limit unit='KiB'>1</hard_limit>", "<memtune>"},
		{"<boot dev='network'/>", "<boot dev='network'/><boot dev='lun'/>", "lun"},
	} {
		d, err := hardware.Parse(strings.Replace(rich, c.from, c.to, 1))
		if err == nil {
			_, err = hardware.Create(d)
		}
		if err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("with %s: error %v does not name %s", c.to, err, c.names)
		}
		if e := verr.From(err); e != nil && e.Code != verr.ConfigUnsupported && e.Code != verr.Internal && e.Code != verr.XMLError {
			t.Errorf("with %s: code %d", c.to, e.Code)
		}
	}
}

// corpora is where libvirt's test data is when it is beside the repository.
const corpora = "../../../../../shared/corpora/libvirt-9.0.0/vmx2xmldata/*.xml"

func TestCorpusIsMadeAndReadAgain(t *testing.T) {
	names, err := filepath.Glob(corpora)
	if err != nil || len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	kept, refused := 0, 0
	for _, name := range names {
		doc, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := hardware.Parse(string(doc))
		if err != nil {
			refused++
			continue
		}
		spec, err := hardware.Create(d)
		if err != nil {
			if e := verr.From(err); e.Code == verr.Internal && !strings.Contains(e.Message, "unsupported") {
				t.Errorf("%s: %v", filepath.Base(name), err)
			}
			refused++
			continue
		}
		m := machine(spec)
		again, err := hardware.Parse(printed(t, m))
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
			continue
		}
		if change, err := hardware.Change(m, again); err != nil || change != nil {
			t.Errorf("%s: what was printed changes %+v, %v", filepath.Base(name), change, err)
		}
		kept++
	}
	if kept < 30 {
		t.Errorf("only %d are made, %d refused", kept, refused)
	}
}

func TestFileNames(t *testing.T) {
	for path, good := range map[string]bool{
		"[ds] a.vmdk": true, "[ds 1] dir/ä b/c.vmdk": true, "[ds]a": true,
		"": false, "a.vmdk": false, "[ds]": false, "[] a": false, "[ds] ../a": false, "[ds] a/../../b": false, "[ds] /etc/passwd": false,
		"[ds] a//b": false, "[ds] a/": false, "[ds] a\nb": false, "[ds] ./a": false,
	} {
		if err := hardware.CheckPath(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(rich)
	f.Add("<domain type='vmware'/>")
	f.Fuzz(func(t *testing.T, doc string) {
		d, err := hardware.Parse(doc)
		if err != nil {
			return
		}
		spec, err := hardware.Create(d)
		if err != nil {
			return
		}
		if _, err := domxml.Parse(printed(t, machine(spec))); err != nil {
			t.Error(err)
		}
	})
}

func typeName(v any) string { return reflect.TypeOf(v).String() }

func TestHostileTextsOfAMachineAreStillXML(t *testing.T) {
	for _, text := range []string{"<&\"'>]]>", "a\x01b\x00c", "\xff\xfe", "ä\u2028\ufffe", strings.Repeat("x", 100000), "line\r\nline"} {
		m := made(t, rich)
		m.Name, m.Annotation = text, text
		for _, v := range m.Hardware.Device {
			switch v := v.(type) {
			case *types.VirtualDisk:
				v.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName = "[ds] " + text + ".vmdk"
			case types.BaseVirtualEthernetCard:
				v.GetVirtualEthernetCard().Backing.(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName = text
				v.GetVirtualEthernetCard().MacAddress = text
			}
		}
		doc := printed(t, m)
		if err := domxml.Check(doc, "domain"); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestMachinesThatMakeNoSenseAreErrorsOrDomains(t *testing.T) {
	for name, spoil := range map[string]func(*types.VirtualMachineConfigInfo){
		"no memory":      func(c *types.VirtualMachineConfigInfo) { c.Hardware.MemoryMB = 0 },
		"no CPU":         func(c *types.VirtualMachineConfigInfo) { c.Hardware.NumCPU = -1 },
		"no UUID":        func(c *types.VirtualMachineConfigInfo) { c.Uuid = "x" },
		"no devices":     func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device = nil },
		"no controllers": func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device = c.Hardware.Device[4:] },
		"no backings": func(c *types.VirtualMachineConfigInfo) {
			for _, v := range c.Hardware.Device {
				v.GetVirtualDevice().Backing = nil
			}
		},
		"no version":     func(c *types.VirtualMachineConfigInfo) { c.Version = "" },
		"no allocations": func(c *types.VirtualMachineConfigInfo) { c.CpuAllocation, c.MemoryAllocation = nil, nil },
		"units out of bounds": func(c *types.VirtualMachineConfigInfo) {
			for _, v := range c.Hardware.Device {
				v.GetVirtualDevice().UnitNumber = types.NewInt32(-7)
			}
		},
	} {
		m := made(t, rich)
		spoil(m)
		doc, err := hardware.XML(m, hardware.Context{})
		if err == nil {
			err = domxml.Check(doc, "domain")
		} else if verr.From(err).Code == verr.OK {
			t.Errorf("%s: %v has no code", name, err)
		} else {
			err = nil
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
