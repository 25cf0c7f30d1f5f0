// Package iscsi shows the static targets of a host's software iSCSI adapter as storage pools, and their logical units as volumes.
//
// All is read from the host's list of devices and kept; a Pool never changes and is safe concurrently. Targets and units are made elsewhere, so
// nothing can be changed here.
package iscsi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/ident"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Bounds of what a host may tell; ESXi 8 knows 1,024 devices.
const (
	maxTargets = 4096
	maxUnits   = 16384
)

// running is that state of virStoragePoolState, from libvirt's public header <libvirt/libvirt-storage.h>.
const running = 2

// Pool is a target.
type Pool struct {
	object *inventoryv1.PoolObject
	units  []*pb.Volume
}

// target is what is gathered of one.
type target struct {
	hosts []poolxml.Host
	units map[string]*pb.Volume
}

// Read finds the targets among the devices of a host, by name. A target without units has none now.
func Read(devices types.HostStorageDeviceInfo) ([]*Pool, error) {
	targets, adapters := map[string]*target{}, map[string]bool{}
	for _, adapter := range devices.HostBusAdapter {
		hba, ok := adapter.(*types.HostInternetScsiHba)
		if !ok || !hba.IsSoftwareBased {
			continue
		}
		adapters[hba.Key] = true
		for _, t := range hba.ConfiguredStaticTarget {
			if len(targets) < maxTargets {
				portal(targets, t)
			}
		}
	}
	units := disks(devices.ScsiLun)
	if devices.ScsiTopology != nil {
		for _, adapter := range devices.ScsiTopology.Adapter {
			if adapters[adapter.Adapter] {
				attach(targets, units, adapter.Target)
			}
		}
	}
	return pools(targets)
}

// portal adds a way to a target.
func portal(targets map[string]*target, t types.HostInternetScsiHbaStaticTarget) {
	if t.IScsiName == "" {
		return
	}
	have := targets[t.IScsiName]
	if have == nil {
		have = &target{units: map[string]*pb.Volume{}}
		targets[t.IScsiName] = have
	}
	host := poolxml.Host{Name: t.Address}
	if t.Port != 0 {
		host.Port = fmt.Sprint(t.Port)
	}
	if !slices.Contains(have.hosts, host) {
		have.hosts = append(have.hosts, host)
	}
}

// disks are the units that are disks, by key.
func disks(luns []types.BaseScsiLun) map[string]*pb.Volume {
	all := map[string]*pb.Volume{}
	for _, lun := range luns {
		disk, ok := lun.(*types.HostScsiDisk)
		if !ok || disk.DeviceName == "" || len(all) >= maxUnits {
			continue
		}
		size := uint64(max(0, disk.Capacity.Block)) * uint64(max(0, disk.Capacity.BlockSize))
		all[disk.Key] = &pb.Volume{
			Name: disk.DeviceName, Key: ident.Of(cmp.Or(disk.Uuid, disk.Key)), Path: cmp.Or(disk.DevicePath, disk.DeviceName),
			Type: pb.VolumeType_VOLUME_TYPE_BLOCK, Capacity: size, Allocation: size,
		}
	}
	return all
}

// attach gives targets the units that the host sees there.
func attach(targets map[string]*target, units map[string]*pb.Volume, seen []types.HostScsiTopologyTarget) {
	for _, s := range seen {
		transport, ok := s.Transport.(*types.HostInternetScsiTargetTransport)
		if !ok || targets[transport.IScsiName] == nil {
			continue
		}
		for _, lun := range s.Lun {
			if unit := units[lun.ScsiLun]; unit != nil {
				targets[transport.IScsiName].units[unit.GetName()] = unit
			}
		}
	}
}

// pools makes pools of targets. As in libvirt's own driver the target's name is where a definition has the initiator's.
func pools(targets map[string]*target) ([]*Pool, error) {
	all := make([]*Pool, 0, len(targets))
	for iqn, t := range targets {
		p := &Pool{}
		for _, unit := range t.units {
			p.units = append(p.units, unit)
		}
		slices.SortFunc(p.units, func(a, b *pb.Volume) int { return cmp.Compare(a.GetName(), b.GetName()) })
		def := &poolxml.Pool{
			Type: "iscsi", Name: iqn, UUID: ident.Of(iqn),
			Source: poolxml.Source{Hosts: t.hosts, Initiator: &poolxml.Initiator{IQN: poolxml.Named{Name: iqn}}},
		}
		text, err := def.XML()
		if err != nil {
			return nil, fmt.Errorf("target %q: %w", iqn, err)
		}
		size := p.size()
		p.object = &inventoryv1.PoolObject{
			Uuid: def.UUID, Name: iqn, Type: def.Type, Xml: text, Condition: running, Capacity: size.GetCapacity(), Allocation: size.GetAllocation(),
			Revision: p.revision(),
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Pool) int { return cmp.Compare(a.object.GetName(), b.object.GetName()) })
	return all, nil
}

// size is that of all units, which have no room for others.
func (p *Pool) size() *pb.PoolSize {
	s := &pb.PoolSize{}
	for _, u := range p.units {
		s.Capacity += u.GetCapacity()
	}
	s.Allocation = s.Capacity
	return s
}

// revision is a sum of the units.
func (p *Pool) revision() string {
	sum := sha256.New()
	for _, u := range p.units {
		_, _ = fmt.Fprintln(sum, u.GetName(), u.GetKey(), u.GetPath(), u.GetCapacity())
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Object is the pool as clients are told of it.
func (p *Pool) Object() *inventoryv1.PoolObject { return p.object }

// Accessible is true: a target of which the host sees no unit has no volumes.
func (p *Pool) Accessible() bool { return true }

// Refresh tells all units by name.
func (p *Pool) Refresh(_ context.Context, tell func(...*pb.Volume) error) (*pb.PoolSize, error) {
	return p.size(), tell(p.units...)
}

// Look finds one unit.
func (p *Pool) Look(_ context.Context, name string) (*pb.Volume, error) {
	for _, u := range p.units {
		if u.GetName() == name {
			return u, nil
		}
	}
	return nil, storage.NoVolume(name)
}
