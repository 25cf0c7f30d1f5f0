package hardware

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
)

// Keys with which hosts begin to number devices of a kind.
const (
	ideKey      = 200
	pciKey      = 100
	sioKey      = 400
	nicKey      = 4000
	serialKey   = 9000
	parallelKey = 10000
)

// device is a device of a machine and the entries of it.
type device struct {
	// key is before the keys of its entries: "scsi0:1", "ethernet0".
	key     string
	entries []vmx.Entry
	real    types.BaseVirtualDevice
}

// set adds an entry.
func (d *device) set(key string, value any) {
	d.entries = append(d.entries, vmx.Entry{Key: key, Value: fmt.Sprint(value)})
}

// slot is where the devices of a controller are.
type slot struct {
	bus    string
	number int32
}

// devices translates those devices that libvirt has elements for, controllers first.
func devices(all []types.BaseVirtualDevice) []device {
	slots := map[int32]slot{}
	var out []device
	for _, v := range all {
		s, model, ok := controller(v)
		if !ok {
			continue
		}
		slots[v.GetVirtualDevice().Key] = s
		if s.bus == "ide" || s.bus == "sio" {
			continue
		}
		d := device{key: fmt.Sprintf("%s%d", s.bus, s.number), real: v}
		d.set("present", true)
		if model != "" {
			d.set("virtualDev", model)
		}
		out = append(out, d)
	}
	var nics, serials, parallels int
	for _, v := range byKey(all) {
		d := device{real: v}
		switch v := v.(type) {
		case *types.VirtualDisk, *types.VirtualCdrom, *types.VirtualFloppy:
			d.key = placeOf(v.GetVirtualDevice(), slots)
			readDrive(&d, v)
		case *types.VirtualSerialPort:
			d.key = fmt.Sprintf("serial%d", number(v.Key, serialKey, &serials))
			readSerial(&d, v)
		case *types.VirtualParallelPort:
			d.key = fmt.Sprintf("parallel%d", number(v.Key, parallelKey, &parallels))
			readParallel(&d, v)
		case *types.VirtualMachineVideoCard:
			if v.VideoRamSizeInKB > 0 {
				d.key = "svga"
				d.set("vramSize", v.VideoRamSizeInKB<<10)
			}
		case types.BaseVirtualEthernetCard:
			d.key = fmt.Sprintf("ethernet%d", nics)
			nics++
			readNIC(&d, v)
		}
		if d.key != "" && len(d.entries) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// byKey sorts devices by their keys, as hosts number them.
func byKey(all []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b types.BaseVirtualDevice) int {
		return int(a.GetVirtualDevice().Key) - int(b.GetVirtualDevice().Key)
	})
	return sorted
}

// number is a port's number by its key, else the next that is free.
func number(key, first int32, next *int) int {
	n := int(key - first)
	if n < *next || n > 31 {
		n = *next
	}
	*next = n + 1
	return n
}

// controller says which bus a controller is of, with the name that .vmx files have for its model, where they have one.
func controller(v types.BaseVirtualDevice) (s slot, model string, ok bool) {
	bus := func(name string, c types.VirtualController) slot { return slot{name, c.BusNumber} }
	switch c := v.(type) {
	case *types.VirtualIDEController:
		return bus("ide", c.VirtualController), "", true
	case *types.VirtualSIOController:
		return bus("sio", c.VirtualController), "", true
	case *types.VirtualBusLogicController:
		return bus("scsi", c.VirtualController), "buslogic", true
	case *types.VirtualLsiLogicController:
		return bus("scsi", c.VirtualController), "lsilogic", true
	case *types.VirtualLsiLogicSASController:
		return bus("scsi", c.VirtualController), "lsisas1068", true
	case *types.ParaVirtualSCSIController:
		return bus("scsi", c.VirtualController), "pvscsi", true
	case *types.VirtualAHCIController:
		return bus("sata", c.VirtualController), "", true
	case *types.VirtualNVMEController:
		return bus("nvme", c.VirtualController), "", true
	}
	return slot{}, "", false
}

// placeOf is the key of a drive's entries, "" for one that is nowhere.
func placeOf(v *types.VirtualDevice, slots map[int32]slot) string {
	s, ok := slots[v.ControllerKey]
	if !ok || v.UnitNumber == nil {
		return ""
	}
	if s.bus == "sio" {
		return fmt.Sprintf("floppy%d", *v.UnitNumber)
	}
	return fmt.Sprintf("%s%d:%d", s.bus, s.number, *v.UnitNumber)
}

// Values of entries.
const (
	emptyDrive       = "emptyBackingString"
	autoDetect       = "auto detect"
	nonPersistent    = "independent-nonpersistent"
	apiNonPersistent = string(types.VirtualDiskModeIndependent_nonpersistent)
)

// readDrive reads a disk, a CD-ROM drive or a floppy drive.
func readDrive(d *device, v types.BaseVirtualDevice) {
	d.set("present", true)
	backing := v.GetVirtualDevice().Backing
	name := fileName(backing)
	switch v.(type) {
	case *types.VirtualDisk:
		readDisk(d, backing, name)
	case *types.VirtualFloppy:
		if b, ok := backing.(types.BaseVirtualDeviceDeviceBackingInfo); ok {
			d.set("fileType", "device")
			d.set("fileName", b.GetVirtualDeviceDeviceBackingInfo().DeviceName)
			return
		}
		d.set("fileType", "file")
		d.set("fileName", name)
	default:
		readCDROM(d, backing, name)
	}
}

// fileName is the file behind a device, or empty.
func fileName(backing types.BaseVirtualDeviceBackingInfo) string {
	if b, ok := backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return b.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}

func readDisk(d *device, backing types.BaseVirtualDeviceBackingInfo, name string) {
	kind := "disk"
	switch {
	case strings.HasPrefix(d.key, "scsi"):
		kind = "scsi-hardDisk"
	case strings.HasPrefix(d.key, "ide"), strings.HasPrefix(d.key, "sata"):
		kind = "ata-hardDisk"
	}
	d.set("deviceType", kind)
	d.set("fileName", name)
	mode, through := "", (*bool)(nil)
	switch b := backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		mode, through = b.DiskMode, b.WriteThrough
	case *types.VirtualDiskSparseVer2BackingInfo:
		mode, through = b.DiskMode, b.WriteThrough
	case *types.VirtualDiskSeSparseBackingInfo:
		mode, through = b.DiskMode, b.WriteThrough
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		mode = b.DiskMode
	}
	if through != nil && *through {
		d.set("writeThrough", true)
	}
	if mode == apiNonPersistent {
		d.set("mode", nonPersistent)
	}
}

func readCDROM(d *device, backing types.BaseVirtualDeviceBackingInfo, name string) {
	kind := "cdrom-image"
	auto := false
	switch b := backing.(type) {
	case *types.VirtualCdromAtapiBackingInfo:
		kind, name, auto = "atapi-cdrom", b.DeviceName, b.UseAutoDetect != nil && *b.UseAutoDetect
	case *types.VirtualCdromPassthroughBackingInfo:
		kind, name, auto = "cdrom-raw", b.DeviceName, b.UseAutoDetect != nil && *b.UseAutoDetect
	}
	if name == "" {
		name = emptyDrive
	}
	if auto {
		name = autoDetect
	}
	d.set("deviceType", kind)
	d.set("fileName", name)
}

func readSerial(d *device, v *types.VirtualSerialPort) {
	switch b := v.Backing.(type) {
	case *types.VirtualSerialPortFileBackingInfo:
		d.set("fileType", "file")
		d.set("fileName", b.FileName)
	case *types.VirtualSerialPortDeviceBackingInfo:
		d.set("fileType", "device")
		d.set("fileName", b.DeviceName)
	case *types.VirtualSerialPortPipeBackingInfo:
		d.set("fileType", "pipe")
		d.set("fileName", b.PipeName)
	case *types.VirtualSerialPortURIBackingInfo:
		if _, ok := splitURI(b.ServiceURI); !ok {
			return // a service that is only known to a proxy
		}
		d.set("fileType", "network")
		d.set("fileName", b.ServiceURI)
		d.set("network.endPoint", b.Direction)
	default:
		return
	}
	d.set("present", true)
}

// splitURI says whether a serial port's service is a URI with a port, which is what libvirt has a form for.
func splitURI(uri string) (scheme string, ok bool) {
	scheme, rest, found := strings.Cut(uri, "://")
	colon := strings.LastIndexByte(rest, ':')
	if !found || colon < 0 {
		return "", false
	}
	_, err := strconv.ParseUint(rest[colon+1:], 10, 16)
	return scheme, err == nil
}

func readParallel(d *device, v *types.VirtualParallelPort) {
	switch b := v.Backing.(type) {
	case *types.VirtualParallelPortFileBackingInfo:
		d.set("fileType", "file")
		d.set("fileName", b.FileName)
	case *types.VirtualParallelPortDeviceBackingInfo:
		d.set("fileType", "device")
		d.set("fileName", b.DeviceName)
	default:
		return
	}
	d.set("present", true)
}
