package domain

import (
	"context"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Volumes finds the volumes that disks name.
type Volumes interface {
	// Resolve returns a volume with the type of its pool. One that is missing is NoStoragePool or NoStorageVol, a pool that is not in use
	// ConfigUnsupported.
	Resolve(ctx context.Context, pool, volume string) (poolType string, found *storagev1.Volume, err error)
}

// Secrets finds the values that disks name.
type Secrets interface {
	// Values returns a value for each, in order; one that is missing is NoSecret, and named.
	Values(ctx context.Context, refs []catalog.SecretRef) ([]*storagev1.Secret, error)
}

// opening is what the core has found out for disks that are about to be opened. Values of secrets are in disks and nowhere else.
type opening struct {
	volumes []catalog.DiskVolume
	disks   []*pb.Disk
}

// open finds out what a driver needs to open the disks of a definition. The definition is changed: its disks that name a volume have the
// path beside the name, for their locks. Volumes in known are taken as they are.
func (i *Inventory) open(ctx context.Context, def *libvirtxml.Domain, known []catalog.DiskVolume) (*opening, error) {
	o := &opening{}
	if def.Devices == nil {
		return o, nil
	}
	for n := range def.Devices.Disks {
		k := &def.Devices.Disks[n]
		if !domxml.HasSource(k.Source) || k.Target == nil {
			continue
		}
		refs := domxml.DiskSecrets(k)
		d := &pb.Disk{Target: k.Target.Dev}
		if k.Source.Volume != nil && i.cfg.Volumes != nil {
			v, err := i.volume(ctx, k, known)
			if err != nil {
				return nil, err
			}
			o.volumes = append(o.volumes, *v)
			d = diskOf(v)
			if v.Network != nil && v.Network.Secret != nil && k.Auth == nil {
				refs = append(refs, domxml.SecretRef(*v.Network.Secret))
			}
			placeVolume(k, v)
		}
		if d.Path = domxml.SourcePath(k.Source); d.Path == "" && d.Network == nil && len(refs) == 0 {
			continue
		}
		var err error
		if d.Secrets, err = i.values(ctx, refs); err != nil {
			return nil, err
		}
		o.disks = append(o.disks, d)
	}
	return o, nil
}

// values gets the secrets that a disk names.
func (i *Inventory) values(ctx context.Context, refs []domxml.SecretRef) ([]*pb.Secret, error) {
	if len(refs) == 0 || i.cfg.Secrets == nil {
		return nil, nil
	}
	asked := make([]catalog.SecretRef, len(refs))
	for n, r := range refs {
		asked[n] = catalog.SecretRef(r)
	}
	values, err := i.cfg.Secrets.Values(ctx, asked)
	if err != nil {
		return nil, err
	}
	secrets := make([]*pb.Secret, len(refs))
	for n, r := range refs {
		secrets[n] = &pb.Secret{
			Ref: &storagev1.SecretRef{Uuid: r.UUID, Usage: r.Usage, UsageType: r.Type}, Value: values[n].GetValue(),
		}
	}
	return secrets, nil
}

// volume finds the volume that a disk names.
func (i *Inventory) volume(ctx context.Context, k *libvirtxml.DomainDisk, known []catalog.DiskVolume) (*catalog.DiskVolume, error) {
	if v := findVolume(known, k); v != nil {
		return v, nil
	}
	source := k.Source.Volume
	poolType, found, err := i.cfg.Volumes.Resolve(ctx, source.Pool, source.Volume)
	if err != nil {
		return nil, err
	}
	v := &catalog.DiskVolume{Target: k.Target.Dev, Pool: source.Pool, Volume: source.Volume}
	if source.Mode != "" && poolType != "iscsi" {
		return nil, verr.New(verr.XMLError, "disk source mode is only valid when storage pool is of iscsi type")
	}
	if p := k.Source.StartupPolicy; p != "" && found.GetType() != storagev1.VolumeType_VOLUME_TYPE_FILE {
		return nil, verr.New(verr.XMLError, "'startupPolicy' is only valid for 'file' type volume")
	}
	switch t := found.GetType(); {
	case source.Mode == "direct" || t == storagev1.VolumeType_VOLUME_TYPE_NETWORK:
		v.Network = networkSource(found.GetNetwork())
	case t == storagev1.VolumeType_VOLUME_TYPE_FILE:
		v.Path = found.GetPath()
	case t == storagev1.VolumeType_VOLUME_TYPE_BLOCK:
		v.Path, v.Block = found.GetPath(), true
	}
	if v.Path == "" && v.Network == nil {
		return nil, verr.New(verr.ConfigUnsupported, "volume '%s' of storage pool '%s', which is of type '%s', cannot be used as a disk",
			source.Volume, source.Pool, poolType)
	}
	return v, nil
}

func networkSource(n *storagev1.NetworkSource) *catalog.NetworkSource {
	if n.GetProtocol() == "" {
		return nil
	}
	out := &catalog.NetworkSource{Protocol: n.GetProtocol(), Name: n.GetName(), User: n.GetUser()}
	for _, h := range n.GetHosts() {
		out.Hosts = append(out.Hosts, catalog.NetworkHost{Name: h.GetName(), Port: h.GetPort()})
	}
	if s := n.GetSecret(); s.GetUuid() != "" || s.GetUsage() != "" {
		out.Secret = &catalog.SecretRef{UUID: s.GetUuid(), Usage: s.GetUsage(), Type: s.GetUsageType()}
	}
	return out
}

// diskOf tells a driver what a volume stands for.
func diskOf(v *catalog.DiskVolume) *pb.Disk {
	d := &pb.Disk{Target: v.Target, Pool: v.Pool, Volume: v.Volume, Path: v.Path, Block: v.Block}
	if n := v.Network; n != nil {
		d.Network = &storagev1.NetworkSource{Protocol: n.Protocol, Name: n.Name, User: n.User}
		for _, h := range n.Hosts {
			d.Network.Hosts = append(d.Network.Hosts, &storagev1.Host{Name: h.Name, Port: h.Port})
		}
		if s := n.Secret; s != nil {
			d.Network.Secret = &storagev1.SecretRef{Uuid: s.UUID, Usage: s.Usage, UsageType: s.Type}
		}
	}
	return d
}

// findVolume finds what a disk's volume stands for, or nil.
func findVolume(known []catalog.DiskVolume, k *libvirtxml.DomainDisk) *catalog.DiskVolume {
	if k.Source == nil || k.Source.Volume == nil || k.Target == nil {
		return nil
	}
	n := slices.IndexFunc(known, func(v catalog.DiskVolume) bool {
		return v.Target == k.Target.Dev && v.Pool == k.Source.Volume.Pool && v.Volume == k.Source.Volume.Volume
	})
	if n < 0 {
		return nil
	}
	return &known[n]
}

// placeVolumes puts the paths of volumes beside their names.
func placeVolumes(def *libvirtxml.Domain, known []catalog.DiskVolume) {
	if def.Devices == nil || len(known) == 0 {
		return
	}
	for n := range def.Devices.Disks {
		if v := findVolume(known, &def.Devices.Disks[n]); v != nil {
			placeVolume(&def.Devices.Disks[n], v)
		}
	}
}

func placeVolume(k *libvirtxml.DomainDisk, v *catalog.DiskVolume) {
	if v.Path != "" {
		k.Source.File = &libvirtxml.DomainDiskSourceFile{File: v.Path}
	}
}

// inUse returns those of the volumes that a living guest's disks name.
func inUse(known []catalog.DiskVolume, live *libvirtxml.Domain) []catalog.DiskVolume {
	var used []catalog.DiskVolume
	if live.Devices == nil {
		return nil
	}
	for n := range live.Devices.Disks {
		if v := findVolume(known, &live.Devices.Disks[n]); v != nil {
			used = append(used, *v)
		}
	}
	return used
}
