package vimtest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// iscsiKey is the key of the software iSCSI adapter.
const iscsiKey = "key-vim.host.InternetScsiHba-vmhba65"

// Unit is a logical unit of an iSCSI target.
type Unit struct {
	// Name is the device's name after /vmfs/devices/disks/, and makes the UUID and the key.
	Name string
	// Blocks are of 512 bytes.
	Blocks int64
}

// Path is the device's name and path.
func (u Unit) Path() string { return "/vmfs/devices/disks/" + u.Name }

// UUID is the unit's uuid as the host tells it.
func (u Unit) UUID() string { return "0200000000" + u.Name + "4c554e" }

// AddTarget gives the software iSCSI adapter of the first host a static target with units.
func (s *Server) AddTarget(iqn, address string, port int32, units ...Unit) {
	s.t.Helper()
	AddTarget(s.model, s.HostRef(), iqn, address, port, units...)
}

// AddTarget gives the software iSCSI adapter of a host, which is made if it is not there, a static target with units.
func AddTarget(model *simulator.Model, ref types.ManagedObjectReference, iqn, address string, port int32, units ...Unit) {
	host := model.Map().Get(ref).(*simulator.HostSystem)
	var devices types.HostStorageDeviceInfo
	model.Service.Context.WithLock(host, func() { devices = *host.Config.StorageDevice })

	hba := &types.HostInternetScsiHba{
		HostHostBusAdapter: types.HostHostBusAdapter{Key: iscsiKey, Device: "vmhba65", Status: "online", Model: "iSCSI Software Adapter"},
		IsSoftwareBased:    true, IScsiName: "iqn.1998-01.com.vmware:vimtest",
	}
	devices.HostBusAdapter = slices.DeleteFunc(slices.Clone(devices.HostBusAdapter), func(a types.BaseHostHostBusAdapter) bool {
		old, ok := a.(*types.HostInternetScsiHba)
		if ok && old.Key == iscsiKey {
			hba.ConfiguredStaticTarget = slices.Clone(old.ConfiguredStaticTarget)
		}
		return ok && old.Key == iscsiKey
	})
	hba.DiscoveryProperties.StaticTargetDiscoveryEnabled = true
	hba.ConfiguredStaticTarget = append(hba.ConfiguredStaticTarget, types.HostInternetScsiHbaStaticTarget{Address: address, Port: port, IScsiName: iqn})
	devices.HostBusAdapter = append(devices.HostBusAdapter, hba)

	seen := types.HostScsiTopologyTarget{Key: "target-" + iqn, Transport: &types.HostInternetScsiTargetTransport{IScsiName: iqn}}
	devices.ScsiLun = slices.Clone(devices.ScsiLun)
	for n, unit := range units {
		disk := &types.HostScsiDisk{Capacity: types.HostDiskDimensionsLba{BlockSize: 512, Block: unit.Blocks}, DevicePath: unit.Path()}
		disk.Key, disk.Uuid, disk.DeviceName = "key-vim.host.ScsiDisk-"+unit.Name, unit.UUID(), unit.Path()
		disk.CanonicalName, disk.LunType, disk.OperationalState = unit.Name, "disk", []string{"ok"}
		devices.ScsiLun = append(devices.ScsiLun, disk)
		seen.Lun = append(seen.Lun, types.HostScsiTopologyLun{Key: disk.Key, Lun: int32(n), ScsiLun: disk.Key})
	}
	topology := &types.HostScsiTopology{}
	if devices.ScsiTopology != nil {
		topology.Adapter = slices.Clone(devices.ScsiTopology.Adapter)
	}
	topology.Adapter = append(topology.Adapter, types.HostScsiTopologyInterface{
		Key: "interface-" + iqn, Adapter: iscsiKey, Target: []types.HostScsiTopologyTarget{seen},
	})
	devices.ScsiTopology = topology
	update(model, host, map[string]any{"config.storageDevice": devices})
}
