package storage_test

import (
	"context"
	"crypto/md5"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func sum(text string) string { return uuid.UUID(md5.Sum([]byte(text))).String() }

func TestDatastoresOfEachKindArePools(t *testing.T) {
	for _, vpx := range []bool{false, true} {
		b := open(t, vimtest.Options{VPX: vpx, Machines: 1})
		for kind, want := range map[string]struct {
			libvirt string
			xml     []string
		}{
			vimtest.VMFS:  {"fs", []string{"<pool type='fs'>", "<format type='vmfs'/>"}},
			vimtest.NFS:   {"netfs", []string{"<pool type='netfs'>", "<host name='filer.example'/>", "<dir path='/export/NFS-1'/>", "<format type='nfs'/>"}},
			vimtest.Local: {"dir", []string{"<pool type='dir'>"}},
		} {
			name := kind + "-1"
			b.server.AddDatastore(name, kind)
			var o *inventoryv1.PoolObject
			b.until(name, func(v *inventory.View) bool {
				o = v.Pools[sum(b.server.MountPath(name))]
				return o.GetType() == want.libvirt
			})
			for _, part := range append(want.xml, "<name>"+name+"</name>", "<path>"+b.server.MountPath(name)+"</path>", "<uuid>"+o.GetUuid()+"</uuid>") {
				if !strings.Contains(o.GetXml(), part) {
					t.Errorf("%s: %s is not in %s", name, part, o.GetXml())
				}
			}
			if o.GetName() != name || o.GetCondition() != 2 || o.GetCapacity() == 0 || o.GetAvailable()+o.GetAllocation() != o.GetCapacity() {
				t.Errorf("%s is told as %v", name, o)
			}
			if active, err := b.driver.Check(b.ctx(), b.pool(name)); !active || err != nil {
				t.Errorf("%s is told to be usable: %v, %v", name, active, err)
			}
		}
	}
}

func TestPoolsFollowTheHost(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	revision := b.object("ds1").GetRevision()
	b.server.Room("ds1", 12345)
	b.until("room", func(v *inventory.View) bool {
		o := v.Pools[pool.GetUuid()]
		return o.GetAvailable() == 12345 && o.GetAllocation() == o.GetCapacity()-12345 && o.GetRevision() != revision
	})
	b.server.Reachable("ds1", false)
	b.until("out of reach", func(v *inventory.View) bool { return v.Pools[pool.GetUuid()].GetCondition() == 4 })
	if active, err := b.driver.Check(b.ctx(), pool); active || err != nil {
		t.Errorf("a datastore out of reach is told to be usable: %v, %v", active, err)
	}
	_, err := b.driver.Refresh(b.ctx(), pool, func(...*pb.Volume) error { return nil })
	b.wantCode("refresh out of reach", err, verr.OperationInvalid, "ds1")
	b.server.Reachable("ds1", true)
	b.until("in reach", func(v *inventory.View) bool { return v.Pools[pool.GetUuid()].GetCondition() == 2 })
	b.server.RemoveDatastore("ds1")
	b.until("gone", func(v *inventory.View) bool { return v.Pools[pool.GetUuid()] == nil })
	_, err = b.driver.Look(b.ctx(), pool, "a/b.vmdk")
	b.wantCode("look into what is gone", err, verr.NoStoragePool)
	if active, err := b.driver.Check(b.ctx(), pool); active || err != nil {
		t.Errorf("what is gone is told to be usable: %v, %v", active, err)
	}
}

func TestWhatHappensWhileTheEndpointIsAwayIsFound(t *testing.T) {
	b := open(t, vimtest.Options{})
	gone, _ := b.vmfs("ds1")
	b.server.Gate.Cut()
	b.server.RemoveDatastore("ds1")
	b.server.AddDatastore("ds2", vimtest.NFS)
	time.Sleep(100 * time.Millisecond)
	b.feed.Look(func(v *inventory.View) {
		if v.Pools[gone.GetUuid()] == nil || len(v.Pools) != 2 {
			t.Errorf("while the endpoint is away the picture is %v", v.Pools)
		}
	})
	b.server.Gate.Open()
	b.until("the new picture", func(v *inventory.View) bool {
		return v.Pools[gone.GetUuid()] == nil && v.Pools[sum(b.server.MountPath("ds2"))].GetType() == "netfs"
	})
	b.server.ExpireSessions()
	b.server.AddDatastore("ds3", vimtest.NFS)
	b.until("after the session has ended", func(v *inventory.View) bool { return v.Pools[sum(b.server.MountPath("ds3"))] != nil })
}

func TestReadySaysWhyNothingWasRead(t *testing.T) {
	b := &bench{T: t, server: vimtest.Start(t, vimtest.Options{}), feed: inventory.NewFeed()}
	b.server.Gate.Cut()
	b.follow(options())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := b.store.Ready(ctx); err == nil || !strings.Contains(err.Error(), b.server.Address()) {
		t.Errorf("the error is %v", err)
	}
}

func TestTargetsArePoolsThatCanOnlyBeRead(t *testing.T) {
	b := open(t, vimtest.Options{})
	const iqn = "iqn.2012-11.example:disks"
	one, two := vimtest.Unit{Name: "naa.600a", Blocks: 2048}, vimtest.Unit{Name: "naa.600b", Blocks: 4096}
	b.server.AddTarget(iqn, "10.0.0.7", 3260, one, two)
	pool := b.pool(iqn)
	o := b.object(iqn)
	if o.GetUuid() != sum(iqn) || o.GetType() != "iscsi" || o.GetCapacity() != 6144*512 {
		t.Errorf("the target is told as %v", o)
	}
	for _, part := range []string{"<pool type='iscsi'>", "<host name='10.0.0.7' port='3260'/>", "<iqn name='" + iqn + "'/>"} {
		if !strings.Contains(o.GetXml(), part) {
			t.Errorf("%s is not in %s", part, o.GetXml())
		}
	}
	all := b.volumes(pool)
	for _, unit := range []vimtest.Unit{one, two} {
		v := all[unit.Path()]
		if v.GetKey() != sum(unit.UUID()) || v.GetPath() != unit.Path() || v.GetType() != pb.VolumeType_VOLUME_TYPE_BLOCK ||
			v.GetCapacity() != uint64(unit.Blocks)*512 {
			t.Errorf("unit %s is told as %v", unit.Name, v)
		}
		if looked, err := b.driver.Look(b.ctx(), pool, unit.Path()); err != nil || looked.GetKey() != v.GetKey() {
			t.Errorf("looked at, unit %s is %v, %v", unit.Name, looked, err)
		}
	}
	if len(all) != 2 {
		t.Errorf("there are %d units", len(all))
	}
	_, err := b.driver.Look(b.ctx(), pool, "other")
	b.wantCode("look at another one", err, verr.NoStorageVol)
	v := all[one.Path()]
	_, err = b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition("a", 1, "")}, noProgress)
	b.wantCode("create", err, verr.NoSupport, iqn)
	b.wantCode("remove", b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}), verr.NoSupport)
	b.wantCode("wipe", b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: v}, noProgress), verr.NoSupport)
	_, err = b.driver.Resize(b.ctx(), &pb.ResizeRequest{Pool: pool, Volume: v, Capacity: 1 << 30})
	b.wantCode("resize", err, verr.NoSupport)
	_, err = b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v})
	b.wantCode("download", err, verr.NoSupport)
	_, err = b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v})
	b.wantCode("upload", err, verr.NoSupport)
	// Another unit, and a second target.
	b.server.AddTarget("iqn.2012-11.example:more", "10.0.0.8", 0, vimtest.Unit{Name: "naa.600c", Blocks: 8})
	if more := b.object("iqn.2012-11.example:more"); !strings.Contains(more.GetXml(), "<host name='10.0.0.8'/>") {
		t.Errorf("the second target is %v", more)
	}
	b.object(iqn)
}

func TestPoolsAreTheHostsOwn(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	_, err := b.driver.Validate(b.ctx(), &pb.ValidateRequest{Xml: pool.GetXml()})
	b.wantCode("define", err, verr.NoSupport)
	b.wantCode("start", b.driver.Start(b.ctx(), pool), verr.NoSupport)
	b.wantCode("stop", b.driver.Stop(b.ctx(), pool), verr.NoSupport)
	types, err := b.driver.Capabilities(b.ctx())
	if err != nil || len(types) != 4 {
		t.Errorf("capabilities are %v, %v", types, err)
	}
	if _, err := b.driver.Look(b.ctx(), &pb.Pool{Uuid: pool.GetUuid(), Connection: "esx:///other"}, "a/b.iso"); !verr.Is(err, verr.NoConnect) {
		t.Errorf("at another connection the error is %v", err)
	}
}
