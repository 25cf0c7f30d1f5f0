package driver

import (
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// A disk that names a volume keeps the names in every definition that is written or told. In memory its source has beside them what they stand
// for, which the core finds out when the disk is opened and tells again at every Recover.

// resolveVolumes puts what the core has found out into the disks that name a volume.
func resolveVolumes(def *libvirtxml.Domain, found []*pb.Disk) {
	if def.Devices == nil {
		return
	}
	for i := range def.Devices.Disks {
		resolveVolume(&def.Devices.Disks[i], found)
	}
}

func resolveVolume(k *libvirtxml.DomainDisk, found []*pb.Disk) {
	if k.Source == nil || k.Source.Volume == nil || k.Target == nil {
		return
	}
	s := k.Source
	for _, d := range found {
		if d.GetTarget() != k.Target.Dev || d.GetPool() != s.Volume.Pool || d.GetVolume() != s.Volume.Volume {
			continue
		}
		forgetVolume(k)
		switch {
		case d.GetNetwork() != nil:
			s.Network = networkSource(d)
		case d.GetBlock():
			s.Block = &libvirtxml.DomainDiskSourceBlock{Dev: d.GetPath(), SecLabel: s.Volume.SecLabel}
		default:
			s.File = &libvirtxml.DomainDiskSourceFile{File: d.GetPath(), SecLabel: s.Volume.SecLabel}
		}
	}
}

func networkSource(d *pb.Disk) *libvirtxml.DomainDiskSourceNetwork {
	from := d.GetNetwork()
	n := &libvirtxml.DomainDiskSourceNetwork{Protocol: from.GetProtocol(), Name: from.GetName()}
	for _, h := range from.GetHosts() {
		host := libvirtxml.DomainDiskSourceHost{Name: h.GetName()}
		if h.GetPort() != 0 {
			host.Port = strconv.FormatUint(uint64(h.GetPort()), 10)
		}
		n.Hosts = append(n.Hosts, host)
	}
	if s := from.GetSecret(); s.GetUuid() != "" || s.GetUsage() != "" {
		n.Auth = &libvirtxml.DomainDiskAuth{
			Username: from.GetUser(),
			Secret:   &libvirtxml.DomainDiskSecret{Type: s.GetUsageType(), UUID: s.GetUuid(), Usage: s.GetUsage()},
		}
	}
	return n
}

// forgetVolume leaves of a source that names a volume the names alone.
func forgetVolume(k *libvirtxml.DomainDisk) {
	if k.Source != nil && k.Source.Volume != nil {
		k.Source.File, k.Source.Block, k.Source.Network = nil, nil, nil
	}
}

// printLive writes a live definition as clients see it.
func printLive(live *libvirtxml.Domain) (string, error) {
	if live.Devices != nil {
		live = cmdline.Clone(live)
		for i := range live.Devices.Disks {
			forgetVolume(&live.Devices.Disks[i])
		}
	}
	text, err := domxml.Format(live)
	if err != nil {
		return "", fmt.Errorf("write live xml: %w", err)
	}
	return text, nil
}

// printDevice writes a device as clients see it.
func printDevice(dev domxml.Device) (string, error) {
	if k, ok := dev.Value.(*libvirtxml.DomainDisk); ok && k.Source != nil && k.Source.Volume != nil {
		shown := *k
		source := *k.Source
		shown.Source = &source
		forgetVolume(&shown)
		dev.Value = &shown
	}
	return dev.XML()
}

// know keeps what the volumes of a guest stand for. The caller has the turn, or is alone with the life.
func (l *life) know(disks []*pb.Disk) {
	for _, d := range disks {
		if d.GetPool() == "" {
			continue
		}
		own := proto.CloneOf(d)
		own.Secrets = nil
		l.volumes = append(slices.DeleteFunc(l.volumes, func(old *pb.Disk) bool {
			return old.GetTarget() == d.GetTarget() && old.GetPool() == d.GetPool() && old.GetVolume() == d.GetVolume()
		}), own)
	}
}

// parseLive reads a live definition, with what its volumes stand for.
func (l *life) parseLive(text string) (*libvirtxml.Domain, error) {
	live, err := domxml.Parse(text)
	if err != nil {
		return nil, err
	}
	resolveVolumes(live, l.volumes)
	return live, nil
}

// secretsOf finds values among the secrets that came with disks.
func secretsOf(disks []*pb.Disk) func(domxml.SecretRef) ([]byte, bool) {
	values := map[domxml.SecretRef][]byte{}
	for _, d := range disks {
		for _, s := range d.GetSecrets() {
			r := s.GetRef()
			values[domxml.SecretRef{UUID: r.GetUuid(), Usage: r.GetUsage(), Type: r.GetUsageType()}] = s.GetValue()
		}
	}
	return func(ref domxml.SecretRef) ([]byte, bool) {
		value, ok := values[ref]
		return value, ok
	}
}
