package vmx_test

import (
	"errors"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// head begins every file that is a machine's.
const head = "config.version = \"8\"\nvirtualHW.version = \"7\"\ndisplayName = \"guest\"\n"

// frame returns a domain around elements of the root and of <devices>.
func frame(root, devices string) string {
	return "<domain type='vmware'><name>guest</name><uuid>564d9bef-acd9-b4e0-c8f0-aea8b9103515</uuid>" +
		"<memory unit='KiB'>4096</memory>" + root + "<os><type>hvm</type></os><devices>" + devices + "</devices></domain>"
}

// host is a context of a host of hardware version 7.
func host() vmx.Context {
	ctx := testContext("", "")
	ctx.HardwareVersion = 7
	return ctx
}

func TestEntriesBecomeElements(t *testing.T) {
	for _, c := range []struct {
		name, entries, want string
	}{
		{"a name with a slash", `displayName = "a%2fb"`, "<name>a/b</name>"},
		{"a UUID in the common form", `uuid.bios = "564d9bef-acd9-b4e0-c8f0-aea8b9103515"`, "<uuid>564d9bef-acd9-b4e0-c8f0-aea8b9103515<"},
		{"a UUID in VMware's form", `uuid.bios = "56 4d 9b ef ac d9 b4 e0-c8 f0 ae a8 b9 10 35 15"`, "<uuid>564d9bef-acd9-b4e0-c8f0-aea8b9103515<"},
		{"a generation ID", "vm.genid = \"-8536691797830587195\"\nvm.genidX = \"-1723453263670062919\"", "<genid>8987940a-0951-2cc5-e815-10634ff550b9<"},
		{"an annotation of two lines", `annotation = "a|0Ab"`, "<description>a\nb</description>"},
		{"memory that is not limited", "memsize = \"64\"\nsched.mem.max = \"unlimited\"", "<currentMemory unit='KiB'>65536<"},
		{"guaranteed memory", "memsize = \"64\"\nsched.mem.minsize = \"16\"", "<min_guarantee unit='KiB'>16384<"},
		{"a number of shares", `sched.cpu.shares = "777"`, "<shares>777</shares>"},
		{"cores of a socket", "numvcpus = \"4\"\ncpuid.coresPerSocket = \"2\"", "<topology sockets='2' dies='1' cores='2' threads='1'/>"},
		{"an affinity", `sched.cpu.affinity = "5,0,1"`, "cpuset='0-1,5'"},
		{"secure boot", "firmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\"", "<feature enabled='yes' name='secure-boot'/>"},
		{"a disk on NVMe", "nvme1.present = \"true\"\nnvme1:2.present = \"true\"\nnvme1:2.fileName = \"a.vmdk\"", "<target dev='nvme1n3' bus='nvme'/>"},
		{"a disk on SATA", "sata1.present = \"true\"\nsata1:0.present = \"true\"\nsata1:0.fileName = \"a.vmdk\"", "<target dev='sdae' bus='sata'/>"},
		{"an image in a drive of no type", "ide0:0.present = \"true\"\nide0:0.fileName = \"a.iso\"", "<source file='[datastore] directory/a.iso'/>"},
		{"a drive handed through", "scsi0.present = \"true\"\nscsi0:0.present = \"true\"\nscsi0:0.deviceType = \"scsi-passthru\"\nscsi0:0.fileName = \"/vmfs/devices/cdrom/a\"", "<disk type='block' device='lun'>"},
		{"a controller before that of a disk", "scsi1.present = \"true\"\nscsi1:0.present = \"true\"\nscsi1:0.fileName = \"a.vmdk\"", "<controller type='scsi' index='0'/>"},
		{"a floppy of the host", "floppy0.present = \"true\"\nfloppy0.fileName = \"/dev/fd0\"", "<source dev='/dev/fd0'/>"},
		{"port 0 of a distributed switch", "ethernet0.present = \"true\"\nethernet0.dvs.switchId = \"50 34 26 b2 94 e9 3b 16-1d 68 87 bf ff 4a 54 40\"\nethernet0.dvs.portgroupId = \"g\"\nethernet0.dvs.portId = \"0\"\nethernet0.dvs.connectionId = \"7\"", "<source switchid='503426b2-94e9-3b16-1d68-87bfff4a5440' portid='0' portgroupid='g' connectionid='7'/>"},
		{"connection 0 of a distributed switch", "ethernet0.present = \"true\"\nethernet0.dvs.switchId = \"50 34 26 b2 94 e9 3b 16-1d 68 87 bf ff 4a 54 40\"\nethernet0.dvs.portgroupId = \"g\"\nethernet0.dvs.portId = \"0\"\nethernet0.dvs.connectionId = \"0\"", "<source switchid='503426b2-94e9-3b16-1d68-87bfff4a5440' portid='0' portgroupid='g' connectionid='0'/>"},
		{"an opaque network", "ethernet0.present = \"true\"\nethernet0.opaqueNetwork.id = \"n\"\nethernet0.opaqueNetwork.type = \"nsx.LogicalSwitch\"\nethernet0.externalId = \"503426b2-94e9-3b16-1d68-87bfff4a5440\"", "<parameters interfaceid='503426b2-94e9-3b16-1d68-87bfff4a5440' profileid='nsx.LogicalSwitch'/>"},
		{"a serial port with TLS", "serial0.present = \"true\"\nserial0.fileType = \"network\"\nserial0.fileName = \"tcp+ssl://[::1]:42\"", "<source mode='bind' host='::1' service='42'/>"},
		{"a parallel port of the host", "parallel0.present = \"true\"\nparallel0.fileName = \"/dev/parport0\"", "<parallel type='dev'>"},
		{"an image of a floppy", "floppy0.present = \"true\"\nfloppy0.fileName = \"a.flp\"", "<source file='[datastore] directory/a.flp'/>"},
		{"an empty floppy drive", "floppy1.present = \"true\"\nfloppy1.fileType = \"file\"", "<target dev='fdb' bus='fdc'/>"},
		{"VNC", "RemoteDisplay.vnc.enabled = \"true\"\nRemoteDisplay.vnc.port = \"5903\"", "<graphics type='vnc' port='5903' autoport='no'>"},
		{"VNC on any port", `RemoteDisplay.vnc.enabled = "true"`, "autoport='yes'>"},
		{"a shared folder", "isolation.tools.hgfs.disable = \"false\"\nsharedFolder.maxNum = \"1\"\nsharedFolder0.present = \"true\"\nsharedFolder0.enabled = \"true\"\nsharedFolder0.hostPath = \"/a\"\nsharedFolder0.guestName = \"b\"", "<readonly/>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc, err := vmx.ToXML(head+c.entries+"\n", host())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(doc, c.want) {
				t.Errorf("%s is missing in\n%s", c.want, doc)
			}
		})
	}
}

func TestEntriesThatMeanNothingHereAreLeftOut(t *testing.T) {
	doc, err := vmx.ToXML(head+`
ide0:0.present = "true"
ide0:0.clientDevice = "true"
ide0:0.deviceType = "atapi-cdrom"
scsi0:0.present = "true"
scsi0:0.fileName = "no-controller.vmdk"
sharedFolder.maxNum = "1"
sharedFolder0.present = "true"
sharedFolder0.enabled = "true"
RemoteDisplay.vnc.port = "5900"
`, host())
	if err != nil {
		t.Fatal(err)
	}
	for _, element := range []string{"<disk", "<controller", "<filesystem", "<graphics", "<interface"} {
		if strings.Contains(doc, element) {
			t.Errorf("%s in\n%s", element, doc)
		}
	}
}

func TestMachinesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, text string
		code       verr.Code
		want       string
	}{
		{"no version", "displayName = \"a\"", verr.Internal, "config.version"},
		{"another format", "config.version = \"9\"\nvirtualHW.version = \"7\"", verr.Internal, "config.version"},
		{"old hardware", "config.version = \"8\"\nvirtualHW.version = \"3\"", verr.ConfigUnsupported, "virtualHW.version"},
		{"a flag that is none", head + `smbios.reflecthost = "maybe"`, verr.Internal, "smbios.reflecthost"},
		{"memory that is no number", head + `memsize = "much"`, verr.Internal, "memsize"},
		{"memory that VMware does not give", head + `memsize = "33"`, verr.Internal, "memsize"},
		{"CPUs that fit no sockets", head + "numvcpus = \"3\"\ncpuid.coresPerSocket = \"2\"", verr.Internal, "coresPerSocket"},
		{"too many CPUs", head + `numvcpus = "99999999999"`, verr.Internal, "numvcpus"},
		{"an affinity for too few", head + "numvcpus = \"2\"\nsched.cpu.affinity = \"1\"", verr.Internal, "sched.cpu.affinity"},
		{"a UUID that is none", head + `uuid.bios = "1"`, verr.Internal, "uuid.bios"},
		{"a disk on no datastore", head + "ide0:0.present = \"true\"\nide0:0.fileName = \"/vmfs/volumes/missing/a.vmdk\"", verr.Internal, "ide0:0.fileName"},
		{"a disk of another format", head + "ide0:0.present = \"true\"\nide0:0.fileName = \"a.img\"", verr.ConfigUnsupported, "ide0:0.fileName"},
		{"a disk of no kind", head + "ide0:0.present = \"true\"\nide0:0.deviceType = \"tape\"", verr.ConfigUnsupported, "ide0:0.deviceType"},
		{"a controller of no kind", head + "scsi0.present = \"true\"\nscsi0.virtualDev = \"x\"\nscsi0:0.present = \"true\"\nscsi0:0.fileName = \"a.vmdk\"", verr.Internal, "scsi0.virtualDev"},
		{"a card of no kind", head + "ethernet0.present = \"true\"\nethernet0.virtualDev = \"ne2000\"", verr.Internal, "ethernet0.virtualDev"},
		{"a card on the host only", head + "ethernet0.present = \"true\"\nethernet0.connectionType = \"hostonly\"", verr.ConfigUnsupported, "ethernet0.connectionType"},
		{"an address that is none", head + "ethernet0.present = \"true\"\nethernet0.generatedAddress = \"x\"", verr.Internal, "ethernet0.generatedAddress"},
		{"a port without a port", head + "serial0.present = \"true\"\nserial0.fileType = \"network\"\nserial0.fileName = \"tcp://a\"", verr.Internal, "serial0.fileName"},
		{"a port over UDP", head + "serial0.present = \"true\"\nserial0.fileType = \"network\"\nserial0.fileName = \"udp://a:1\"", verr.Internal, "serial0.fileName"},
		{"a parallel pipe", head + "parallel0.present = \"true\"\nparallel0.fileType = \"pipe\"", verr.Internal, "parallel0.fileType"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := vmx.Parse(c.text, host())
			if !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want code %d and %q", err, c.code, c.want)
			}
		})
	}
}

func TestElementsBecomeEntries(t *testing.T) {
	const disk = "<disk type='file'><source file='[d] a/b.vmdk'/>"
	for _, c := range []struct {
		name, root, devices, want string
	}{
		{"a UUID", "", "", `uuid.bios = "56 4d 9b ef ac d9 b4 e0-c8 f0 ae a8 b9 10 35 15"`},
		{"a generation ID", "<genid>8987940a-0951-2cc5-e815-10634ff550b9</genid>", "", "vm.genid = \"-8536691797830587195\"\nvm.genidX = \"-1723453263670062919\""},
		{"a description that would be an entry", "<description>a\"\nmemsize = \"1</description>", "", `annotation = "a|22|0amemsize = |221"`},
		{"guaranteed memory", "<memtune><min_guarantee unit='MiB'>2</min_guarantee></memtune>", "", `sched.mem.minsize = "2"`},
		{"a set of CPUs", "<vcpu cpuset='0-3,^1'>2</vcpu>", "", `sched.cpu.affinity = "0,2,3"`},
		{"shares", "<cputune><shares>2000</shares></cputune>", "", `sched.cpu.shares = "high"`},
		{"a number of shares", "<cputune><shares>77</shares></cputune>", "", `sched.cpu.shares = "77"`},
		{"a disk on SATA", "", disk + "<target dev='sdb' bus='sata'/></disk>", "sata0.present = \"true\"\nsata0:1.present = \"true\"\nsata0:1.deviceType = \"ata-hardDisk\"\nsata0:1.fileName = \"/vmfs/volumes/d/a/b.vmdk\""},
		{"a disk on NVMe", "", disk + "<target dev='nvme0n2' bus='nvme'/></disk>", "nvme0.present = \"true\"\nnvme0:1.present = \"true\""},
		{"a disk that forgets", "", disk + "<target dev='hda' bus='ide'/><transient/></disk>", `ide0:0.mode = "independent-nonpersistent"`},
		{"a disk behind the controller's unit", "", disk + "<target dev='sdh' bus='scsi'/></disk>", `scsi0:8.present = "true"`},
		{"a disk of the 16th unit", "", disk + "<target dev='sdp' bus='scsi'/><address type='drive' controller='0' bus='0' unit='16'/></disk><controller type='scsi' index='0' model='vmpvscsi'/>", `scsi0:16.present = "true"`},
		{"a model that is found out", "", disk + "<target dev='sda' bus='scsi'/></disk><controller type='scsi' index='0' model='auto'/>", `scsi0.virtualDev = "lsilogic"`},
		{"a disk whose target tells its bus", "", disk + "<target dev='hdc'/></disk>", `ide1:0.present = "true"`},
		{"a floppy of the host", "", "<disk type='block' device='floppy'><source dev='/dev/fd0'/><target dev='fdb'/></disk>", "floppy1.present = \"true\"\nfloppy1.fileType = \"device\"\nfloppy1.fileName = \"/dev/fd0\"\nfloppy0.present = \"false\""},
		{"video memory of the host's choice", "", "<video/>", `svga.vramSize = "4194304"`},
		{"a parallel port of a number", "", "<parallel type='dev'><source path='/dev/parport0'/><target port='2'/></parallel>", `parallel2.fileName = "/dev/parport0"`},
		{"a card on NAT", "", "<interface type='user'/>", "ethernet0.connectionType = \"nat\"\nethernet0.addressType = \"generated\""},
		{"a card that has all features", "", "<interface type='null'><model type='vmxnet2'/></interface>", "ethernet0.virtualDev = \"vmxnet\"\nethernet0.features = \"15\""},
		{"an opaque network", "", "<interface type='bridge'><source bridge='n'/><virtualport type='openvswitch'><parameters interfaceid='503426b2-94e9-3b16-1d68-87bfff4a5440' profileid='nsx.LogicalSwitch'/></virtualport></interface>", "ethernet0.opaqueNetwork.id = \"n\"\nethernet0.opaqueNetwork.type = \"nsx.LogicalSwitch\"\nethernet0.externalId = \"503426b2"},
		{"a pipe", "", "<serial type='pipe'><source path='a'/></serial>", "serial0.fileType = \"pipe\"\nserial0.pipe.endPoint = \"client\""},
		{"telnet", "", "<serial type='tcp'><source mode='bind' host='::' service='23'/><protocol type='telnet'/></serial>", `serial0.fileName = "telnet://[::]:23"`},
		{"an address of VNC", "", "<graphics type='vnc' port='5901' listen='127.0.0.1'/>", "RemoteDisplay.vnc.port = \"5901\"\nRemoteDisplay.vnc.ip = \"127.0.0.1\""},
		{"a folder to read", "", "<filesystem type='mount'><source dir='/a'/><target dir='b'/><readonly/></filesystem>", `sharedFolder0.writeAccess = "false"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, err := vmx.Format(frame(c.root, c.devices), host())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, c.want) {
				t.Errorf("%s is missing in\n%s", c.want, text)
			}
		})
	}
}

func TestNamesSurviveBothWays(t *testing.T) {
	for _, name := range []string{"a", "50%", "a%41", "a|41", `"a"`, "ä %25"} {
		escaped := strings.NewReplacer("&", "&amp;", `"`, "&quot;").Replace(name)
		text, err := vmx.Format(strings.Replace(frame("", ""), ">guest<", ">"+escaped+"<", 1), host())
		if err != nil {
			t.Fatal(err)
		}
		d, err := vmx.Parse(text, host())
		if err != nil || d.Name != name {
			t.Errorf("%q comes back as %v, %v", name, d, err)
		}
	}
}

func TestModelThatCannotBeFoundOutIsAnError(t *testing.T) {
	gone := errors.New("image is gone")
	ctx := host()
	ctx.SCSIModel = func(*libvirtxml.DomainDisk) (string, error) { return "", gone }
	_, err := vmx.Format(frame("", "<disk type='file'><source file='[d] a.vmdk'/><target dev='sda' bus='scsi'/></disk>"+
		"<controller type='scsi' index='0' model='auto'/>"), ctx)
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "'sda'") {
		t.Errorf("got %v", err)
	}
}

func TestHardwareIsNotTooOld(t *testing.T) {
	ctx := host()
	ctx.HardwareVersion = 3
	if _, err := vmx.Format(frame("", ""), ctx); !verr.Is(err, verr.Internal) {
		t.Errorf("got %v", err)
	}
}

func TestSecureBootIsWritten(t *testing.T) {
	doc := strings.Replace(frame("", ""), "<os>",
		"<os firmware='efi'><firmware><feature enabled='yes' name='secure-boot'/></firmware>", 1)
	text, err := vmx.Format(doc, host())
	if err != nil || !strings.Contains(text, "firmware = \"efi\"\nuefi.secureBoot.enabled = \"true\"\n") {
		t.Errorf("got %v and\n%s", err, text)
	}
}

func TestDomainsAreRefused(t *testing.T) {
	const disk = "<disk type='file'><source file='[d] a.vmdk'/>"
	for _, c := range []struct {
		name, doc string
		code      verr.Code
		want      string
	}{
		{"no XML", "<domain", verr.XMLError, ""},
		{"another type", strings.Replace(frame("", ""), "vmware", "kvm", 1), verr.Internal, "'kvm'"},
		{"another architecture", strings.Replace(frame("", ""), "<type>", "<type arch='ppc64'>", 1), verr.Internal, "'ppc64'"},
		{"threads", frame("<vcpu>2</vcpu><cpu><topology sockets='1' cores='1' threads='2'/></cpu>", ""), verr.ConfigUnsupported, "thread"},
		{"a topology of others", frame("<vcpu>3</vcpu><cpu><topology sockets='1' cores='2' threads='1'/></cpu>", ""), verr.ConfigUnsupported, "topology"},
		{"too few CPUs in a set", frame("<vcpu cpuset='0'>2</vcpu>", ""), verr.Internal, "cpuset"},
		{"virtio", frame("", disk+"<target dev='vda' bus='virtio'/></disk>"), verr.ConfigUnsupported, "'virtio'"},
		{"the controller's unit", frame("", disk+"<target dev='sdh' bus='scsi'/><address type='drive' controller='0' bus='0' unit='7'/></disk>"), verr.Internal, "unit index 7"},
		{"an address of another disk", frame("", disk+"<target dev='sda' bus='scsi'/><address type='drive' controller='0' bus='0' unit='1'/></disk>"), verr.ConfigUnsupported, "'sda'"},
		{"a unit that the controller lacks", frame("", disk+"<target dev='sdp' bus='scsi'/><address type='drive' controller='0' bus='0' unit='16'/></disk>"), verr.ConfigUnsupported, "16"},
		{"two disks of a name", frame("", disk+"<target dev='hda' bus='ide'/></disk>"+disk+"<target dev='hda' bus='ide'/></disk>"), verr.XMLError, "'hda'"},
		{"an unknown cache", frame("", disk+"<driver cache='unsafe'/><target dev='hda' bus='ide'/></disk>"), verr.ConfigUnsupported, "'unsafe'"},
		{"an image of no VMware's", frame("", "<disk type='file'><source file='[d] a.qcow2'/><target dev='hda' bus='ide'/></disk>"), verr.Internal, "a.qcow2"},
		{"a name without a datastore", frame("", "<disk type='file'><source file='a.vmdk'/><target dev='hda' bus='ide'/></disk>"), verr.Internal, "a.vmdk"},
		{"two models of a controller", frame("", disk+"<driver name='buslogic'/><target dev='sda' bus='scsi'/></disk><controller type='scsi' index='0' model='lsilogic'/>"), verr.Internal, "Inconsistent"},
		{"a network of libvirt's", frame("", "<interface type='network'><source network='default'/></interface>"), verr.ConfigUnsupported, "interface"},
		{"a controller that VMware lacks", frame("", disk+"<target dev='sda' bus='scsi'/><address type='drive' controller='4' bus='0' unit='0'/></disk>"), verr.Internal, "controller index 4"},
		{"a bus that VMware lacks", frame("", disk+"<target dev='hda' bus='ide'/><address type='drive' controller='0' bus='2' unit='0'/></disk>"), verr.Internal, "bus index 2"},
		{"a floppy on IDE", frame("", "<disk type='file' device='floppy'><target dev='hda' bus='ide'/></disk>"), verr.ConfigUnsupported, "'floppy'"},
		{"a block device as a disk", frame("", "<disk type='block'><source dev='/dev/sda.vmdk'/><target dev='hda' bus='ide'/></disk>"), verr.ConfigUnsupported, "expecting 'file'"},
		{"a disk over the network", frame("", "<disk type='network'><source protocol='nbd' name='a'/><target dev='hda' bus='ide'/></disk>"), verr.ConfigUnsupported, "'hda'"},
		{"CPUs to be plugged", frame("<vcpu current='1'>2</vcpu>", ""), verr.ConfigUnsupported, "'vcpu'"},
		{"an address that is none", frame("", "<interface type='user'><mac address='x'/></interface>"), verr.XMLError, "mac"},
		{"two screens", frame("", "<video/><video/>"), verr.ConfigUnsupported, "video"},
		{"two heads", frame("", "<video><model type='vmvga' heads='2'/></video>"), verr.ConfigUnsupported, "head"},
		{"a folder that is an image", frame("", "<filesystem type='file'><source file='a'/><target dir='b'/></filesystem>"), verr.ConfigUnsupported, "filesystem"},
		{"a port beyond the last", frame("", "<serial type='dev'><source path='a'/><target port='32'/></serial>"), verr.ConfigUnsupported, "32"},
		{"a parallel port beyond the last", frame("", "<parallel type='dev'><source path='a'/><target port='3'/></parallel>"), verr.ConfigUnsupported, "3"},
		{"an unknown card", frame("", "<interface type='null'><model type='virtio'/></interface>"), verr.ConfigUnsupported, "'virtio'"},
		{"a port over UDP", frame("", "<serial type='udp'><source mode='connect' host='a' service='1'/></serial>"), verr.ConfigUnsupported, "serial0"},
		{"a service that is no number", frame("", "<serial type='tcp'><source mode='bind' host='a' service='b c'/></serial>"), verr.ConfigUnsupported, "'b c'"},
		{"a host that is none", frame("", "<serial type='tcp'><source mode='bind' host='a b' service='1'/></serial>"), verr.ConfigUnsupported, "'a b'"},
		{"no service", frame("", "<serial type='tcp'><source mode='bind' host='a'/></serial>"), verr.ConfigUnsupported, "serial0"},
		{"an unknown protocol", frame("", "<serial type='tcp'><source mode='bind' host='a' service='1'/><protocol type='x'/></serial>"), verr.ConfigUnsupported, "'x'"},
		{"spice", frame("", "<graphics type='spice'/>"), verr.ConfigUnsupported, "graphics"},
		{"another video device", frame("", "<video><model type='qxl'/></video>"), verr.ConfigUnsupported, "'qxl'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := vmx.Format(c.doc, host())
			if !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want code %d and %q", err, c.code, c.want)
			}
		})
	}
}

func TestHardwareVersionFollowsTheProduct(t *testing.T) {
	for _, c := range []struct {
		product, version string
		want             int
	}{
		{"ESX", "3.5.0", 4},
		{"ESX", "4.1", 7},
		{"ESX", "5.5.0", 10},
		{"ESX", "6.7.0", 14},
		{"ESX", "7", 17},
		{"ESX", "12.0.0", 20},
		{"GSX", "2.0.1", 4},
		{"ESX", "2.5", 0},
		{"VPX", "6.7", 0},
		{"ESX", "new", 0},
	} {
		got, err := vmx.HardwareVersion(c.product, c.version)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s %s has %d, %v; want %d", c.product, c.version, got, err, c.want)
		}
	}
}

func TestFolderNamesFiles(t *testing.T) {
	names := vmx.Folder{Datastore: "d", Path: "vm", Lookup: func(volume string) (string, bool) {
		return "named", volume == "4af0231d-1eff559a"
	}}
	for file, want := range map[string]string{
		"a.vmdk": "[d] vm/a.vmdk", "/vmfs/volumes/4af0231d-1eff559a/b/a.vmdk": "[named] b/a.vmdk", "/tmp/a.iso": "/tmp/a.iso",
	} {
		if got, err := names.Source(file); err != nil || got != want {
			t.Errorf("%q is named %q, %v; want %q", file, got, err, want)
		}
	}
	for _, file := range []string{"/vmfs/volumes/", "/vmfs/volumes/a", "/vmfs/volumes/gone/a.vmdk"} {
		if got, err := names.Source(file); err == nil {
			t.Errorf("%q is named %q", file, got)
		}
	}
	for _, source := range []string{"", "a.vmdk", "[]", "[d]", "[d] ", "[a/b] c", "[d"} {
		if got, err := names.File(source); err == nil {
			t.Errorf("%q is file %q", source, got)
		}
	}
}

// seeds are files and domains to begin fuzzing with.
func seeds(f *testing.F) {
	f.Add(head+"scsi0.present = \"true\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"true\"\nscsi0:0.fileName = \"a.vmdk\"\n",
		frame("", "<disk type='file'><source file='[d] a.vmdk'/><target dev='sda' bus='scsi'/></disk>"))
	f.Add(head+"ethernet0.present = \"true\"\nserial0.present = \"true\"\nserial0.fileType = \"network\"\nserial0.fileName = \"tcp://a:1\"\n",
		frame("<vcpu cpuset='0-3'>2</vcpu>", "<interface type='user'/><serial type='tcp'><source mode='bind' host='a' service='1'/></serial>"))
	f.Add(head+"RemoteDisplay.vnc.enabled = \"true\"\nisolation.tools.hgfs.disable = \"false\"\nsharedFolder.maxNum = \"1\"\n",
		frame("<genid/>", "<graphics type='vnc' port='5901'/><video/><filesystem><source dir='a'/></filesystem>"))
}

// FuzzTranslation looks for files and domains that make either direction panic or write what the other one cannot read.
func FuzzTranslation(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text, doc string) {
		if made, err := vmx.ToXML(text, host()); err == nil {
			var d libvirtxml.Domain
			if err := d.Unmarshal(made); err != nil {
				t.Fatalf("%q gives XML that cannot be read: %v\n%s", text, err, made)
			}
			doc = made
		}
		file, err := vmx.Format(doc, host())
		if err != nil {
			return
		}
		if _, err := vmx.ToXML(file, host()); err != nil && len(file) < 32<<10 {
			t.Fatalf("%q gives a file that cannot be read: %v\n%s", doc, err, file)
		}
	})
}
