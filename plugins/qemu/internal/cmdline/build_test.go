package cmdline_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// guest wraps parts of a definition in a small domain.
func guest(machine, parts, devices string) string {
	return "<domain type='qemu'><name>g,1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3f77</uuid><memory unit='MiB'>32</memory>" +
		"<vcpu>2</vcpu><os><type machine='" + machine + "'>hvm</type></os>" + parts + "<devices>" + devices +
		"</devices></domain>"
}

func plainEnv() define.Env {
	return define.Env{
		Emulator: emulator, Arch: "x86_64", DefaultMachine: "pc", KVM: true,
		Machines: map[string]string{
			"pc": "pc-i440fx-7.2", "pc-i440fx-7.2": "pc-i440fx-7.2", "q35": "pc-q35-7.2", "pc-q35-7.2": "pc-q35-7.2",
		},
	}
}

func tryBuild(text string, plan cmdline.Plan) (*cmdline.Command, error) {
	d, err := domxml.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := domxml.Complete(d); err != nil {
		return nil, err
	}
	if err := define.Complete(d, plainEnv()); err != nil {
		return nil, err
	}
	plan.Env = plainEnv()
	return cmdline.Build(d, plan)
}

// option returns the values of an option.
func option(c *cmdline.Command, name string) []string {
	var values []string
	for i, a := range c.Args {
		if a == name {
			values = append(values, c.Args[i+1])
		}
	}
	return values
}

func TestPasswordsStayOutOfTheArguments(t *testing.T) {
	c, err := tryBuild(guest("pc", "", "<graphics type='vnc' port='5999' passwd='hushhush' passwdValidTo='2030-01-02T03:04:05'/>"+
		"<graphics type='spice' port='5998' passwd='hushhush' connected='disconnect'/>"), cmdline.Plan{RuntimeDir: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(c.Args, " "), "hush") {
		t.Errorf("a password is in the arguments: %q", c.Args)
	}
	want := []cmdline.Password{
		{Protocol: "vnc", Password: "hushhush", ValidTo: "1893553445", Connected: "keep"},
		{Protocol: "spice", Password: "hushhush", ValidTo: "never", Connected: "disconnect"},
	}
	if !slices.Equal(c.Passwords, want) {
		t.Errorf("passwords are %v, want %v", c.Passwords, want)
	}
	if v := option(c, "-vnc"); !strings.Contains(v[0], "password=on") {
		t.Errorf("VNC asks for no password: %q", v)
	}
	if v := option(c, "-spice"); strings.Contains(v[0], "disable-ticketing") {
		t.Errorf("SPICE asks for no password: %q", v)
	}
}

func TestNamesCannotAddOptions(t *testing.T) {
	c, err := tryBuild(guest("pc", "", "<serial type='file'><source path='/a,b=c'/></serial>"), cmdline.Plan{RuntimeDir: "/r,x"})
	if err != nil {
		t.Fatal(err)
	}
	if got := option(c, "-name")[0]; got != "guest=g,,1,debug-threads=on" {
		t.Errorf("name is %q", got)
	}
	if got := option(c, "-chardev"); !strings.Contains(got[0], "path=/r,,x/") || !strings.HasSuffix(got[1], "path=/a,,b=c") {
		t.Errorf("character devices are %q", got)
	}
}

// chainOf is a backing chain by path.
type chainOf map[string]cmdline.Backing

func (c chainOf) Backing(path, _ string) (*cmdline.Backing, error) {
	if b, ok := c[path]; ok {
		return &b, nil
	}
	return nil, nil
}

func disk(attributes string) string {
	return "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/top'/>" + attributes + "<target dev='vda'/></disk>"
}

func TestBackingChains(t *testing.T) {
	images := chainOf{
		"/top": {Path: "/mid", Format: "qcow2"}, "/mid": {Path: "/base"},
		"/loop": {Path: "/loop", Format: "qcow2"},
	}
	tests := []struct {
		name, disk string
		files      []string
		drivers    []string
	}{
		{"a chain that was found; a base without a format is raw", disk(""), []string{"/base", "/mid", "/top"}, []string{"raw", "qcow2", "qcow2"}},
		{
			"a chain that the definition gives wins",
			disk("<backingStore type='file'><format type='raw'/><source file='/other'/><backingStore/></backingStore>"),
			[]string{"/other", "/top"},
			[]string{"raw", "qcow2"},
		},
		{"an empty backing store ends the chain", disk("<backingStore/>"), []string{"/top"}, []string{"qcow2"}},
		{
			"a raw image has nothing below whatever it holds", strings.Replace(disk(""), "qcow2", "raw", 1),
			[]string{"/top"},
			[]string{"raw"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tryBuild(guest("pc", "", tt.disk), cmdline.Plan{RuntimeDir: "/r", Images: images})
			if err != nil {
				t.Fatal(err)
			}
			var files, drivers []string
			for _, text := range option(c, "-blockdev") {
				var node struct{ Filename, Driver string }
				if err := json.Unmarshal([]byte(text), &node); err != nil {
					t.Fatal(err)
				}
				if node.Filename != "" {
					files = append(files, node.Filename)
				} else {
					drivers = append(drivers, node.Driver)
				}
			}
			if !slices.Equal(files, tt.files) || !slices.Equal(drivers, tt.drivers) {
				t.Errorf("nodes are %q %q, want %q %q", files, drivers, tt.files, tt.drivers)
			}
		})
	}
	if _, err := tryBuild(guest("pc", "", strings.Replace(disk(""), "/top", "/loop", 1)), cmdline.Plan{RuntimeDir: "/r", Images: images}); err == nil {
		t.Error("a chain that goes in a circle was accepted")
	}
}

func TestRefusedByName(t *testing.T) {
	tests := []struct{ name, xml, says string }{
		{"network without a driver", guest("pc", "", "<interface type='network'><source network='default'/></interface>"), "interface type 'network'"},
		{"bridge without a driver", guest("pc", "", "<interface type='bridge'><source bridge='br0'/></interface>"), "interface type 'bridge'"},
		{"stdio", guest("pc", "", "<serial type='stdio'/>"), "'stdio'"},
		{"CPU limits", guest("pc", "<cputune><shares>7</shares></cputune>", ""), "CPU tuning"},
		{"huge pages", guest("pc", "<memoryBacking><hugepages/></memoryBacking>", ""), "huge pages"},
		{"disk limits", guest("pc", "", disk("<iotune><total_iops_sec>9</total_iops_sec></iotune>")), "limits on the I/O"},
		{"network disk", guest("pc", "", "<disk type='network'><source protocol='gluster' name='v/i'/><target dev='vda'/></disk>"), "protocol 'gluster'"},
		{"host device", guest("pc", "", "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source></hostdev>"), "host devices"},
		{"an element with no sentence of its own", guest("pc", "<keywrap><cipher name='aes' state='on'/></keywrap>", ""), "<keywrap>"},
		{"extra arguments", strings.Replace(guest("pc", "", ""), "</domain>", "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'><arg value='-x'/></commandline></domain>", 1), "commandline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tryBuild(tt.xml, cmdline.Plan{RuntimeDir: "/r"})
			if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want code 67 and %q", err, tt.says)
			}
		})
	}
}

func TestLiveDefinition(t *testing.T) {
	c, err := tryBuild(guest("pc", "", disk("")+"<serial type='pty'><alias name='ua-mine'/></serial>"+
		"<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel><graphics type='vnc'/>"+
		"<interface type='ethernet'><mac address='52:54:00:00:00:01'/></interface>"),
		cmdline.Plan{ID: 7, RuntimeDir: "/r", Ports: &countingPorts{}})
	if err != nil {
		t.Fatal(err)
	}
	cmdline.SetPTYs(c.Live, map[string]string{"charua-mine": "pty:/dev/pts/3"})
	dev := c.Live.Devices
	facts := map[string]string{
		"id": fmt.Sprint(*c.Live.ID), "disk": dev.Disks[0].Alias.Name, "serial": dev.Serials[0].Alias.Name,
		"console": dev.Consoles[0].Alias.Name, "tty": dev.Consoles[0].TTY, "pty": dev.Serials[0].Source.Pty.Path,
		"agent": c.Agent, "channel": dev.Channels[0].Source.UNIX.Path, "port": fmt.Sprint(dev.Graphics[0].VNC.Port),
		"listen": dev.Graphics[0].VNC.Listen, "tap": dev.Interfaces[0].Target.Dev, "net": dev.Interfaces[0].Alias.Name,
	}
	want := map[string]string{
		"id": "7", "disk": "virtio-disk0", "serial": "ua-mine", "console": "ua-mine", "tty": "/dev/pts/3", "pty": "/dev/pts/3",
		"agent": "/r/org.qemu.guest_agent.0", "channel": "/r/org.qemu.guest_agent.0", "port": "5900", "listen": "127.0.0.1",
		"tap": "vnet7-0", "net": "net0",
	}
	for k, v := range want {
		if facts[k] != v {
			t.Errorf("%s is %q, want %q", k, facts[k], v)
		}
	}
}

func TestQEMUAcceptsMoreDevices(t *testing.T) {
	env := qemuEnv(t)
	tests := []struct{ name, machine, parts, devices, needs string }{
		{name: "a TPM", machine: "q35", devices: "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", needs: "swtpm"},
		{name: "a pvpanic device and an itco watchdog", machine: "q35", devices: "<panic model='pvpanic'/><watchdog model='itco' action='pause'/>"},
		{name: "screens on sockets", machine: "pc", devices: "<graphics type='vnc'><listen type='socket'/></graphics><graphics type='spice'><listen type='socket'/></graphics>"},
		{name: "screens with passwords", machine: "pc", devices: "<graphics type='vnc' passwd='x'/><graphics type='spice' autoport='yes' passwd='y'/>"},
		{
			name: "NUMA cells", machine: "pc",
			parts: "<cpu><numa><cell id='0' cpus='0' memory='16' unit='MiB'/><cell id='1' cpus='1' memory='16' unit='MiB'/></numa></cpu>",
		},
		{
			name: "video cards", machine: "q35",
			devices: "<video><model type='bochs'/></video><video><model type='virtio' heads='2'/></video><video><model type='ramfb'/></video>",
		},
		{
			name: "disks with every setting", machine: "q35", parts: "<iothreads>2</iothreads>",
			devices: "<controller type='scsi' model='virtio-scsi'><driver queues='2' iothread='2'/></controller>" +
				"<disk type='file'><driver name='qemu' type='raw' cache='none' io='threads' discard='unmap' detect_zeroes='unmap' " +
				"error_policy='enospace' iothread='1' queues='2'/><source file='DIR/a'/><target dev='vda'/><serial>abc</serial>" +
				"<blockio logical_block_size='512' physical_block_size='4096'/><shareable/></disk>" +
				"<disk type='file'><driver name='qemu' type='raw' copy_on_read='on'/><source file='DIR/b'/><target dev='sda' bus='scsi'/>" +
				"<wwn>5000c50015ea71ac</wwn><vendor>V</vendor><product>P</product></disk>" +
				"<disk type='file' device='cdrom'><target dev='sdb' bus='scsi'/></disk>",
		},
		{
			name: "booting from a floppy", machine: "q35",
			devices: "<disk type='file' device='floppy'><source file='DIR/a'/><target dev='fda'/><boot order='1'/></disk>",
		},
		{
			name: "clocks, power management and firmware tables", machine: "pc",
			parts: "<sysinfo type='smbios'><system><entry name='product'>a,b</entry></system></sysinfo>" +
				"<clock offset='variable' adjustment='3600'><timer name='rtc' track='guest'/></clock><pm><suspend-to-mem enabled='no'/></pm>" +
				"<features><acpi/><apic/><pae/><vmcoreinfo/></features>",
		},
		{
			name: "forwarded ports", machine: "pc",
			devices: "<interface type='user'><ip address='10.5.0.0' family='ipv4' prefix='24'/><model type='virtio'/>" +
				"<link state='down'/><rom enabled='no'/></interface>",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := exec.LookPath(tt.needs); tt.needs != "" && err != nil {
				t.Skip(err)
			}
			dir := shortDir(t)
			for _, name := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1440<<10), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			text := strings.ReplaceAll(guest(tt.machine, tt.parts, tt.devices), "DIR", dir)
			run(t, build(t, text, env, dir))
		})
	}
}
