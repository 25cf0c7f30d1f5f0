package iscsi

import (
	"context"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func adapter(key string, software bool, targets ...types.HostInternetScsiHbaStaticTarget) *types.HostInternetScsiHba {
	return &types.HostInternetScsiHba{
		HostHostBusAdapter: types.HostHostBusAdapter{Key: key}, IsSoftwareBased: software, ConfiguredStaticTarget: targets,
	}
}

func disk(name string, blocks int64) *types.HostScsiDisk {
	d := &types.HostScsiDisk{Capacity: types.HostDiskDimensionsLba{Block: blocks, BlockSize: 512}}
	d.Key, d.DeviceName = "key-"+name, name
	return d
}

func seen(adapter, iqn string, disks ...string) types.HostScsiTopologyInterface {
	target := types.HostScsiTopologyTarget{Transport: &types.HostInternetScsiTargetTransport{IScsiName: iqn}}
	for _, name := range disks {
		target.Lun = append(target.Lun, types.HostScsiTopologyLun{ScsiLun: "key-" + name})
	}
	return types.HostScsiTopologyInterface{Adapter: adapter, Target: []types.HostScsiTopologyTarget{target}}
}

// names are those of a pool's volumes.
func names(t *testing.T, p *Pool) string {
	t.Helper()
	var all []string
	_, err := p.Refresh(context.Background(), func(found ...*pb.Volume) error {
		for _, v := range found {
			all = append(all, v.GetName())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return strings.Join(all, " ")
}

func TestTargetsOfTheSoftwareAdapterAreRead(t *testing.T) {
	devices := types.HostStorageDeviceInfo{
		HostBusAdapter: []types.BaseHostHostBusAdapter{
			&types.HostBlockHba{HostHostBusAdapter: types.HostHostBusAdapter{Key: "block"}},
			adapter("soft", true,
				types.HostInternetScsiHbaStaticTarget{IScsiName: "iqn.b", Address: "10.0.0.1", Port: 3260},
				types.HostInternetScsiHbaStaticTarget{IScsiName: "iqn.b", Address: "10.0.0.2", Port: 3261},
				types.HostInternetScsiHbaStaticTarget{IScsiName: "iqn.b", Address: "10.0.0.1", Port: 3260},
				types.HostInternetScsiHbaStaticTarget{IScsiName: "iqn.a", Address: "fd00::1"},
				types.HostInternetScsiHbaStaticTarget{Address: "10.0.0.9"},
			),
			adapter("hard", false, types.HostInternetScsiHbaStaticTarget{IScsiName: "iqn.hard", Address: "10.0.0.3"}),
		},
		ScsiLun: []types.BaseScsiLun{disk("one", 8), disk("two", -1), disk("other", 8), &types.ScsiLun{Key: "key-tape"}, disk("", 8)},
		ScsiTopology: &types.HostScsiTopology{Adapter: []types.HostScsiTopologyInterface{
			seen("soft", "iqn.b", "two", "one", "tape", "nothing", ""), seen("soft", "iqn.b", "one"), seen("hard", "iqn.b", "other"),
			seen("soft", "iqn.unknown", "other"),
			{Adapter: "soft", Target: []types.HostScsiTopologyTarget{{}}},
		}},
	}
	pools, err := Read(devices)
	if err != nil || len(pools) != 2 {
		t.Fatalf("there are %d pools, %v", len(pools), err)
	}
	a, b := pools[0], pools[1]
	if a.Object().GetName() != "iqn.a" || names(t, a) != "" || b.Object().GetName() != "iqn.b" || names(t, b) != "one two" {
		t.Errorf("the pools are %v with %q, and %v with %q", a.Object(), names(t, a), b.Object(), names(t, b))
	}
	for _, part := range []string{"<host name='10.0.0.1' port='3260'/>", "<host name='10.0.0.2' port='3261'/>"} {
		if strings.Count(b.Object().GetXml(), part) != 1 {
			t.Errorf("%s is not once in %s", part, b.Object().GetXml())
		}
	}
	if b.Object().GetCapacity() != 8*512 {
		t.Errorf("the capacity is %d", b.Object().GetCapacity())
	}
	if v, err := b.Look(context.Background(), "two"); err != nil || v.GetCapacity() != 0 || v.GetPath() != "two" {
		t.Errorf("a disk without a size is %v, %v", v, err)
	}
	if _, err := b.Look(context.Background(), "other"); !verr.Is(err, verr.NoStorageVol) {
		t.Errorf("a disk of another adapter: %v", err)
	}
	devices.ScsiTopology = nil
	again, err := Read(devices)
	if err != nil || len(again) != 2 || again[1].Object().GetRevision() == b.Object().GetRevision() {
		t.Errorf("without units the pools are %v, %v", again, err)
	}
	if none, err := Read(types.HostStorageDeviceInfo{}); err != nil || len(none) != 0 {
		t.Errorf("of nothing %d pools are read, %v", len(none), err)
	}
}
