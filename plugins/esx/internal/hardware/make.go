package hardware

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// make makes the device of a key.
func (p *plan) make(key string, e entries) (types.BaseVirtualDevice, error) {
	switch {
	case strings.HasPrefix(key, "ethernet"), strings.HasPrefix(key, "new-ethernet"):
		return makeNIC(e, p.key())
	case strings.HasPrefix(key, "serial"):
		return makeSerial(e, p.key()), nil
	case strings.HasPrefix(key, "parallel"):
		return makeParallel(e, p.key()), nil
	}
	at, err := p.place(key)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(key, "floppy") {
		return makeFloppy(e, at), nil
	}
	switch e["deviceType"] {
	case "cdrom-image", "atapi-cdrom", "cdrom-raw":
		return makeCDROM(e, at), nil
	case "scsi-passthru":
		return nil, verr.New(verr.ConfigUnsupported, "element <disk>: drives of the host cannot be handed through as SCSI devices here, "+
			"use device 'cdrom'")
	}
	return makeDisk(e, at), nil
}

// place is a new device at the place that a key names.
func (p *plan) place(key string) (types.VirtualDevice, error) {
	bus, unit := "sio", strings.TrimPrefix(key, "floppy")
	if name, number, ok := strings.Cut(key, ":"); ok {
		bus, unit = name, number
	}
	controller, ok := p.controllers[bus]
	number, err := strconv.ParseInt(unit, 10, 32)
	if err != nil || !ok {
		return types.VirtualDevice{}, verr.New(verr.ConfigUnsupported, "the machine has no controller for device %s", key)
	}
	return types.VirtualDevice{Key: p.key(), ControllerKey: controller, UnitNumber: types.NewInt32(int32(number))}, nil
}

// connected is for devices that are there when the machine starts.
func connected() *types.VirtualDeviceConnectInfo {
	return &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true}
}

// fileBacking is a file of a datastore.
func fileBacking(e entries) types.VirtualDeviceFileBackingInfo {
	return types.VirtualDeviceFileBackingInfo{FileName: e["fileName"]}
}

// deviceBacking is a device of the host.
func deviceBacking(e entries) types.VirtualDeviceDeviceBackingInfo {
	b := types.VirtualDeviceDeviceBackingInfo{DeviceName: e["fileName"]}
	if b.DeviceName == autoDetect || b.DeviceName == "" {
		b.DeviceName, b.UseAutoDetect = "", types.NewBool(true)
	}
	return b
}

func makeDisk(e entries, at types.VirtualDevice) types.BaseVirtualDevice {
	mode := types.VirtualDiskModePersistent
	if e["mode"] == nonPersistent {
		mode = types.VirtualDiskModeIndependent_nonpersistent
	}
	at.Backing = &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: fileBacking(e), DiskMode: string(mode), WriteThrough: types.NewBool(e["writeThrough"] == "true"),
	}
	return &types.VirtualDisk{VirtualDevice: at}
}

func makeCDROM(e entries, at types.VirtualDevice) types.BaseVirtualDevice {
	at.Connectable = connected()
	switch {
	case e["deviceType"] == "atapi-cdrom":
		at.Backing = &types.VirtualCdromAtapiBackingInfo{VirtualDeviceDeviceBackingInfo: deviceBacking(e)}
	case e["deviceType"] == "cdrom-raw":
		at.Backing = &types.VirtualCdromPassthroughBackingInfo{VirtualDeviceDeviceBackingInfo: deviceBacking(e)}
	case e["fileName"] == emptyDrive:
		at.Backing = &types.VirtualCdromRemotePassthroughBackingInfo{
			VirtualDeviceRemoteDeviceBackingInfo: types.VirtualDeviceRemoteDeviceBackingInfo{UseAutoDetect: types.NewBool(false)},
		}
		at.Connectable = &types.VirtualDeviceConnectInfo{AllowGuestControl: true}
	default:
		at.Backing = &types.VirtualCdromIsoBackingInfo{VirtualDeviceFileBackingInfo: fileBacking(e)}
	}
	return &types.VirtualCdrom{VirtualDevice: at}
}

func makeFloppy(e entries, at types.VirtualDevice) types.BaseVirtualDevice {
	at.Connectable = connected()
	switch {
	case e["fileType"] == "device":
		at.Backing = &types.VirtualFloppyDeviceBackingInfo{VirtualDeviceDeviceBackingInfo: deviceBacking(e)}
	case e["fileName"] == "":
		at.Backing = &types.VirtualFloppyRemoteDeviceBackingInfo{
			VirtualDeviceRemoteDeviceBackingInfo: types.VirtualDeviceRemoteDeviceBackingInfo{UseAutoDetect: types.NewBool(false)},
		}
		at.Connectable = &types.VirtualDeviceConnectInfo{AllowGuestControl: true}
	default:
		at.Backing = &types.VirtualFloppyImageBackingInfo{VirtualDeviceFileBackingInfo: fileBacking(e)}
	}
	return &types.VirtualFloppy{VirtualDevice: at}
}

func makeSerial(e entries, key int32) types.BaseVirtualDevice {
	v := &types.VirtualSerialPort{
		VirtualDevice: types.VirtualDevice{Key: key, ControllerKey: sioKey, Connectable: connected()}, YieldOnPoll: true,
	}
	switch e["fileType"] {
	case "file":
		v.Backing = &types.VirtualSerialPortFileBackingInfo{VirtualDeviceFileBackingInfo: fileBacking(e)}
	case "pipe":
		v.Backing = &types.VirtualSerialPortPipeBackingInfo{
			VirtualDevicePipeBackingInfo: types.VirtualDevicePipeBackingInfo{PipeName: e["fileName"]},
			Endpoint:                     e["pipe.endPoint"], NoRxLoss: types.NewBool(e["tryNoRxLoss"] == "true"),
		}
	case "network":
		v.Backing = &types.VirtualSerialPortURIBackingInfo{VirtualDeviceURIBackingInfo: types.VirtualDeviceURIBackingInfo{
			ServiceURI: e["fileName"], Direction: e["network.endPoint"],
		}}
	default:
		v.Backing = &types.VirtualSerialPortDeviceBackingInfo{VirtualDeviceDeviceBackingInfo: deviceBacking(e)}
	}
	return v
}

func makeParallel(e entries, key int32) types.BaseVirtualDevice {
	v := &types.VirtualParallelPort{VirtualDevice: types.VirtualDevice{Key: key, ControllerKey: sioKey, Connectable: connected()}}
	if e["fileType"] == "file" {
		v.Backing = &types.VirtualParallelPortFileBackingInfo{VirtualDeviceFileBackingInfo: fileBacking(e)}
		return v
	}
	v.Backing = &types.VirtualParallelPortDeviceBackingInfo{VirtualDeviceDeviceBackingInfo: deviceBacking(e)}
	return v
}
