package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Prepare fills in what libvirt's own driver asks a model for and the simulator does not have.
func Prepare(model *simulator.Model) error {
	registry := model.Map()
	for _, entity := range registry.All("Datastore") {
		mount(entity.(*simulator.Datastore))
	}
	for _, entity := range registry.All("VirtualMachine") {
		if err := writeFile(registry, entity.(*simulator.VirtualMachine)); err != nil {
			return err
		}
	}
	return nil
}

// mount gives a datastore the path that it has on each of its hosts.
func mount(store *simulator.Datastore) {
	for i := range store.Host {
		if store.Host[i].MountInfo.Path == "" {
			store.Host[i].MountInfo.Path = "/vmfs/volumes/" + store.Name
		}
		store.Host[i].MountInfo.Mounted = types.NewBool(true)
		store.Host[i].MountInfo.Accessible = types.NewBool(true)
		store.Host[i].MountInfo.AccessMode = string(types.HostMountModeReadWrite)
	}
}

// file is the .vmx file of a machine: as much as libvirt's driver demands, and a disk and a NIC.
const file = `.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "8"
displayName = "%[1]s"
uuid.bios = "%[2]s"
memsize = "%[3]d"
numvcpus = "%[4]d"
guestOS = "other"
scsi0.present = "true"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "true"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "disk1.vmdk"
ethernet0.present = "true"
ethernet0.virtualDev = "e1000"
ethernet0.networkName = "VM Network"
ethernet0.connectionType = "bridged"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "%[5]s"
ethernet0.generatedAddressOffset = "0"
`

// writeFile writes the .vmx file of a machine to where the simulator serves it from.
func writeFile(registry *simulator.Registry, vm *simulator.VirtualMachine) error {
	var at object.DatastorePath
	if !at.FromString(vm.Config.Files.VmPathName) {
		return fmt.Errorf("machine %q: path %q is none of a datastore", vm.Name, vm.Config.Files.VmPathName)
	}
	for _, ref := range vm.Datastore {
		store, ok := registry.Get(ref).(*simulator.Datastore)
		if !ok || store.Name != at.Datastore {
			continue
		}
		path := filepath.Join(store.Summary.Url, at.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("machine %q: %w", vm.Name, err)
		}
		hardware := vm.Config.Hardware
		text := fmt.Sprintf(file, vm.Name, bytesOf(vm.Config.Uuid), hardware.MemoryMB, hardware.NumCPU, mac(hardware.Device))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("machine %q: %w", vm.Name, err)
		}
		return nil
	}
	return fmt.Errorf("machine %q: datastore %q is not its own", vm.Name, at.Datastore)
}

// bytesOf writes a UUID as .vmx files have it: "56 4d ... 7c-ae ...".
func bytesOf(uuid string) string {
	digits := strings.ReplaceAll(uuid, "-", "")
	var b strings.Builder
	for i := 0; i+1 < len(digits); i += 2 {
		switch i {
		case 0:
		case len(digits) / 2:
			b.WriteByte('-')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// mac is the address of a machine's first NIC, which is VMware's own kind.
func mac(devices []types.BaseVirtualDevice) string {
	for _, device := range devices {
		if nic, ok := device.(types.BaseVirtualEthernetCard); ok {
			return nic.GetVirtualEthernetCard().MacAddress
		}
	}
	return "00:0c:29:00:00:01"
}
