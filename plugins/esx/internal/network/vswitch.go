package network

import (
	"crypto/md5" // libvirt's rule for UUIDs, not a protection
	"slices"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	// keyPrefix and a switch's name are its key.
	keyPrefix = "key-vim.host.VirtualSwitch-"
	// defaultMTU is that of a switch for which none is given.
	defaultMTU = 1500
	// trunk is the VLAN of a port group whose machines see all VLANs with their tags.
	trunk = 4095
)

// vswitch is a switch as far as a definition can say what it is.
type vswitch struct {
	name string
	uuid string
	// nics are the devices of its physical NICs, in the host's or the definition's order.
	nics    []string
	mtu     int32
	shaping shaping
	groups  []group
}

// group is a port group that machines can use.
type group struct {
	name    string
	vlan    int32
	shaping shaping
}

// shaping is how traffic is shaped in both directions, in libvirt's units: kilobytes of 1000 bytes a second, and KiB. The zero value is
// none.
type shaping struct {
	average, peak, burst uint64
}

// switchUUID is the UUID of the switch with a key.
func switchUUID(key string) string { return uuid.UUID(md5.Sum([]byte(key))).String() }

// ofSwitch reads a switch.
func ofSwitch(info *types.HostNetworkInfo, vs types.HostVirtualSwitch) vswitch {
	v := vswitch{name: vs.Name, uuid: switchUUID(vs.Key), mtu: vs.Mtu}
	if v.mtu == 0 {
		v.mtu = defaultMTU
	}
	if vs.Spec.Policy != nil {
		v.shaping = ofPolicy(vs.Spec.Policy.ShapingPolicy)
	}
	for _, key := range vs.Pnic {
		for _, nic := range info.Pnic {
			if nic.Key == key {
				v.nics = append(v.nics, nic.Device)
			}
		}
	}
	for _, pg := range info.Portgroup {
		if pg.Spec.VswitchName == vs.Name && !own(info, pg) {
			v.groups = append(v.groups, group{name: pg.Spec.Name, vlan: pg.Spec.VlanId, shaping: ofPolicy(pg.Spec.Policy.ShapingPolicy)})
		}
	}
	return v
}

// ofPolicy reads a policy. One that is absent or not enabled shapes nothing.
func ofPolicy(p *types.HostNetworkTrafficShapingPolicy) shaping {
	if p == nil || p.Enabled == nil || !*p.Enabled {
		return shaping{}
	}
	return shaping{
		average: uint64(max(0, p.AverageBandwidth)) / 8 / 1000, peak: uint64(max(0, p.PeakBandwidth)) / 8 / 1000,
		burst: uint64(max(0, p.BurstSize)) / 1024,
	}
}

// policy writes a policy; nil for none.
func (s shaping) policy() *types.HostNetworkTrafficShapingPolicy {
	if s == (shaping{}) {
		return nil
	}
	return &types.HostNetworkTrafficShapingPolicy{
		Enabled: types.NewBool(true), AverageBandwidth: int64(s.average) * 8 * 1000, PeakBandwidth: int64(s.peak) * 8 * 1000,
		BurstSize: int64(s.burst) * 1024,
	}
}

// own says whether the hypervisor uses a port group itself.
func own(info *types.HostNetworkInfo, pg types.HostPortGroup) bool {
	mine := func(nic types.HostVirtualNic) bool { return nic.Portgroup == pg.Spec.Name }
	return slices.ContainsFunc(info.Vnic, mine) || slices.ContainsFunc(info.ConsoleVnic, mine) ||
		slices.ContainsFunc(pg.Port, func(p types.HostPortGroupPort) bool { return p.Type == "host" || p.Type == "systemManagement" })
}

// find returns the switch for which a condition holds, or nil.
func find(info *types.HostNetworkInfo, holds func(types.HostVirtualSwitch) bool) *types.HostVirtualSwitch {
	if i := slices.IndexFunc(info.Vswitch, holds); i >= 0 {
		return &info.Vswitch[i]
	}
	return nil
}

func named(name string) func(types.HostVirtualSwitch) bool {
	return func(vs types.HostVirtualSwitch) bool { return vs.Name == name }
}

func identified(id string) func(types.HostVirtualSwitch) bool {
	return func(vs types.HostVirtualSwitch) bool { return switchUUID(vs.Key) == id }
}
