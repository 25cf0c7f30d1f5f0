package door

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/pool/pooltest"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// pool defines and starts a pool.
func (c *raw) pool(name string) libvirt.StoragePool {
	c.t.Helper()
	var def libvirt.StoragePoolDefineXMLRet
	c.must(procStoragePoolDefineXml, &libvirt.StoragePoolDefineXMLArgs{XML: pooltest.Definition(name)}, &def)
	c.must(procStoragePoolCreate, &libvirt.StoragePoolCreateArgs{Pool: def.Pool}, nil)
	return def.Pool
}

// volume makes a volume of ten bytes.
func (c *raw) volume(p libvirt.StoragePool, name string) libvirt.StorageVol {
	c.t.Helper()
	var ret libvirt.StorageVolCreateXMLRet
	xml := "<volume><name>" + name + "</name></volume>"
	c.must(procStorageVolCreateXml, &libvirt.StorageVolCreateXMLArgs{Pool: p, XML: xml}, &ret)
	return ret.Vol
}

func TestPoolOverTheWire(t *testing.T) {
	b := newBench(t, Limits{})
	c, reader := b.openLocal(b.path), b.openLocal(b.ro)
	p := c.pool("one")
	v := c.volume(p, "a")
	c.volume(p, "b")
	for _, c := range []*raw{c, reader} {
		var vols libvirt.StoragePoolListAllVolumesRet
		c.must(procStoragePoolListAllVolumes, &libvirt.StoragePoolListAllVolumesArgs{Pool: p, NeedResults: 1}, &vols)
		want := []libvirt.StorageVol{{Pool: "one", Name: "a", Key: "/shelf/one/a"}, {Pool: "one", Name: "b", Key: "/shelf/one/b"}}
		if !slices.Equal(vols.Vols, want) || vols.Ret != 2 {
			t.Errorf("volumes %+v", vols)
		}
		var path libvirt.StorageVolLookupByPathRet
		if c.must(procStorageVolLookupByPath, &libvirt.StorageVolLookupByPathArgs{Path: "/shelf/one/a"}, &path); path.Vol != v {
			t.Errorf("found %+v", path.Vol)
		}
		var key libvirt.StorageVolLookupByKeyRet
		if c.must(procStorageVolLookupByKey, &libvirt.StorageVolLookupByKeyArgs{Key: v.Key}, &key); key.Vol != v {
			t.Errorf("found %+v", key.Vol)
		}
		var info libvirt.StorageVolGetInfoRet
		if c.must(procStorageVolGetInfo, &libvirt.StorageVolGetInfoArgs{Vol: v}, &info); info.Capacity != 10 || info.Type != 0 {
			t.Errorf("info %+v", info)
		}
		var state libvirt.StoragePoolGetInfoRet
		if c.must(procStoragePoolGetInfo, &libvirt.StoragePoolGetInfoArgs{Pool: p}, &state); state.State != 2 || state.Allocation != 20 {
			t.Errorf("state %+v", state)
		}
		var of libvirt.StoragePoolLookupByVolumeRet
		if c.must(procStoragePoolLookupByVolume, &libvirt.StoragePoolLookupByVolumeArgs{Vol: v}, &of); of.Pool != p {
			t.Errorf("pool %+v", of.Pool)
		}
	}
	c.must(procStorageVolResize, &libvirt.StorageVolResizeArgs{Vol: v, Capacity: 50}, nil)
	c.must(procStorageVolDelete, &libvirt.StorageVolDeleteArgs{Vol: libvirt.StorageVol{Pool: "one", Name: "b"}}, nil)
	c.must(procStoragePoolRefresh, &libvirt.StoragePoolRefreshArgs{Pool: p}, nil)
	var names libvirt.StoragePoolListVolumesRet
	c.must(procStoragePoolListVolumes, &libvirt.StoragePoolListVolumesArgs{Pool: p, Maxnames: 9}, &names)
	if !slices.Equal(names.Names, []string{"a"}) {
		t.Errorf("names %q", names.Names)
	}
	c.must(procStoragePoolDestroy, &libvirt.StoragePoolDestroyArgs{Pool: p}, nil)
	c.must(procStoragePoolUndefine, &libvirt.StoragePoolUndefineArgs{Pool: p}, nil)
}

func TestPoolLists(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openLocal(b.path)
	one := c.pool("one")
	c.must(procStoragePoolSetAutostart, &libvirt.StoragePoolSetAutostartArgs{Pool: one, Autostart: 1}, nil)
	c.must(procStoragePoolDefineXml, &libvirt.StoragePoolDefineXMLArgs{XML: pooltest.Definition("off")}, nil)
	c.must(procStoragePoolCreateXml, &libvirt.StoragePoolCreateXMLArgs{XML: pooltest.Definition("transient")}, nil)
	for _, tt := range []struct {
		flags libvirt.ConnectListAllStoragePoolsFlags
		want  string
	}{
		{0, "off one transient"},
		{libvirt.ConnectListStoragePoolsActive, "one transient"},
		{libvirt.ConnectListStoragePoolsInactive, "off"},
		{libvirt.ConnectListStoragePoolsPersistent, "off one"},
		{libvirt.ConnectListStoragePoolsTransient, "transient"},
		{libvirt.ConnectListStoragePoolsAutostart, "one"},
		{libvirt.ConnectListStoragePoolsNoAutostart | libvirt.ConnectListStoragePoolsActive, "transient"},
		{libvirt.ConnectListStoragePoolsLogical, ""},
	} {
		var ret libvirt.ConnectListAllStoragePoolsRet
		c.must(procConnectListAllStoragePools, &libvirt.ConnectListAllStoragePoolsArgs{NeedResults: 1, Flags: tt.flags}, &ret)
		var names []string
		for _, p := range ret.Pools {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("flags %x list %q, want %q", tt.flags, got, tt.want)
		}
	}
	var defined libvirt.ConnectListDefinedStoragePoolsRet
	c.must(procConnectListDefinedStoragePools, &libvirt.ConnectListDefinedStoragePoolsArgs{Maxnames: 9}, &defined)
	if !slices.Equal(defined.Names, []string{"off"}) {
		t.Errorf("defined %q", defined.Names)
	}
}

func TestStorageRefusals(t *testing.T) {
	b := newBench(t, Limits{})
	local, reader, elsewhere := b.openLocal(b.path), b.openLocal(b.ro), b.open(b.path)
	v := local.volume(local.pool("one"), "a")
	other := v
	other.Key = "/elsewhere"
	for name, tt := range map[string]struct {
		c    *raw
		proc int32
		args any
		code int32
		says string
	}{
		"a definition that is none":           {local, procStoragePoolDefineXml, &libvirt.StoragePoolDefineXMLArgs{XML: "<pool/>"}, 27, "type"},
		"a pool that is not there":            {local, procStoragePoolLookupByName, &libvirt.StoragePoolLookupByNameArgs{Name: "x"}, 49, "'x'"},
		"a volume with another key":           {local, procStorageVolGetInfo, &libvirt.StorageVolGetInfoArgs{Vol: other}, 50, "/elsewhere"},
		"unknown flags":                       {local, procConnectListAllStoragePools, &libvirt.ConnectListAllStoragePoolsArgs{Flags: 1 << 30}, 8, "unsupported flags"},
		"a driver that cannot wipe":           {local, procStorageVolWipe, &libvirt.StorageVolWipeArgs{Vol: v}, 3, ""},
		"a client that only reads":            {reader, procStorageVolDelete, &libvirt.StorageVolDeleteArgs{Vol: v}, 29, "read only"},
		"a secret for a client that reads":    {reader, procSecretGetValue, &libvirt.SecretGetValueArgs{}, 29, "read only"},
		"a driver whose disks are elsewhere":  {elsewhere, procConnectNumOfStoragePools, &void{}, 3, "connect_num_of_storage_pools"},
		"nor does that driver look up a path": {elsewhere, procStorageVolLookupByPath, &libvirt.StorageVolLookupByPathArgs{Path: "/x"}, 3, "storage_vol_lookup_by_path"},
		"nor has it secrets":                  {elsewhere, procConnectNumOfSecrets, &void{}, 3, "connect_num_of_secrets"},
	} {
		t.Run(name, func(t *testing.T) {
			if e := tt.c.call(tt.proc, tt.args, nil); e == nil || e.Code != tt.code || !strings.Contains(*e.Message, tt.says) {
				t.Fatalf("error %+v, want code %d and %q", e, tt.code, tt.says)
			}
		})
	}
}

// transfer begins the stream of an upload or download and returns the header of its frames.
func (c *raw) transfer(proc int32, args any) rpc.Header {
	c.t.Helper()
	h := c.send(proc, args)
	if f := c.recv(); f.Header != h.Answer(rpc.OK) {
		c.t.Fatalf("open: %+v: %v", f.Header, c.decode(f, nil))
	}
	h.Type, h.Status = rpc.Stream, rpc.Continue
	return h
}

func TestVolumeGoesUpAndDown(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openLocal(b.path)
	v := c.volume(c.pool("one"), "a")
	up := c.transfer(procStorageVolUpload, &libvirt.StorageVolUploadArgs{Vol: v, Flags: streamSparse})
	c.frame(up, []byte("head"))
	hole := up
	hole.Type = rpc.StreamHole
	payload, err := xdr.Append(nil, &streamHole{Length: 3})
	if err != nil {
		t.Fatal(err)
	}
	c.frame(hole, payload)
	c.frame(up, []byte("tail"))
	c.frame(with(up, rpc.OK), nil)
	if f := c.recv(); f.Status != rpc.OK || f.Type != rpc.Stream {
		t.Fatalf("end of upload: %+v: %v", f.Header, c.decode(f, nil))
	}
	down := c.transfer(procStorageVolDownload, &libvirt.StorageVolDownloadArgs{Vol: v})
	var got []byte
	for {
		f := c.recv()
		if f.Header != down {
			t.Fatalf("frame %+v: %v", f.Header, c.decode(f, nil))
		}
		if len(f.Payload) == 0 {
			break
		}
		got = append(got, f.Payload...)
	}
	c.frame(with(down, rpc.OK), nil)
	if f := c.recv(); f.Status != rpc.OK {
		t.Fatalf("end of download: %+v", f.Header)
	}
	if !bytes.Equal(got, []byte("head\x00\x00\x00tail")) {
		t.Errorf("read %q", got)
	}
}

// TestWorkOnStorageMayTakeLong holds up a refresh and the end of an upload for longer than an ordinary call or a console may take.
func TestWorkOnStorageMayTakeLong(t *testing.T) {
	const limit = 100 * time.Millisecond
	b := newBench(t, Limits{CallTimeout: limit, StreamTimeout: limit})
	c := b.openLocal(b.path)
	p := c.pool("one")
	v := c.volume(p, "a")
	hold := func() {
		b.shelf.Lock()
		defer b.shelf.Unlock()
		held := make(chan struct{})
		b.shelf.Hold = held
		time.AfterFunc(4*limit, func() {
			b.shelf.Lock()
			defer b.shelf.Unlock()
			b.shelf.Hold = nil
			close(held)
		})
	}
	begun := time.Now()
	hold()
	c.must(procStoragePoolRefresh, &libvirt.StoragePoolRefreshArgs{Pool: p}, nil)
	hold()
	up := c.transfer(procStorageVolUpload, &libvirt.StorageVolUploadArgs{Vol: v})
	c.frame(up, []byte("content"))
	c.frame(with(up, rpc.OK), nil)
	if f := c.recv(); f.Status != rpc.OK || f.Type != rpc.Stream {
		t.Errorf("end of upload: %+v: %v", f.Header, c.decode(f, nil))
	}
	if took := time.Since(begun); took < 8*limit {
		t.Errorf("nothing was held up: it took %v", took)
	}
}

func TestUploadThatDoesNotFitFails(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openLocal(b.path)
	v := c.volume(c.pool("one"), "a")
	up := c.transfer(procStorageVolUpload, &libvirt.StorageVolUploadArgs{Vol: v})
	c.frame(up, make([]byte, 200))
	c.frame(with(up, rpc.OK), nil)
	f := c.recv()
	if e := c.decode(f, nil); f.Type != rpc.Stream || e == nil || !strings.Contains(*e.Message, "full") {
		t.Fatalf("end of upload: %+v: %+v", f.Header, e)
	}
	c.must(procStorageVolDelete, &libvirt.StorageVolDeleteArgs{Vol: v}, nil) // no job is left
}

func TestHoleInAnUploadWithoutHolesEndsTheConnection(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openLocal(b.path)
	v := c.volume(c.pool("one"), "a")
	up := c.transfer(procStorageVolUpload, &libvirt.StorageVolUploadArgs{Vol: v})
	up.Type = rpc.StreamHole
	c.frame(up, []byte{1, 2, 3})
	c.gone()
}

func TestSecretsOverTheWire(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openLocal(b.path)
	var events libvirt.ConnectSecretEventRegisterAnyRet
	c.must(procConnectSecretEventRegisterAny, &libvirt.ConnectSecretEventRegisterAnyArgs{EventID: 1}, &events)
	var def libvirt.SecretDefineXMLRet
	xml := "<secret ephemeral='no' private='no'><usage type='ceph'><name>pool</name></usage></secret>"
	c.must(procSecretDefineXml, &libvirt.SecretDefineXMLArgs{XML: xml}, &def)
	if def.OptSecret.UsageType != 2 || def.OptSecret.UsageID != "pool" {
		t.Errorf("defined %+v", def.OptSecret)
	}
	h := c.send(procSecretSetValue, &libvirt.SecretSetValueArgs{OptSecret: def.OptSecret, Value: []byte("value")})
	for range 2 { // the reply and the event, in either order
		f := c.recv()
		if f.Type == rpc.Reply && f.Header == h.Answer(rpc.OK) {
			continue
		}
		var msg libvirt.SecretEventValueChangedMsg
		if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || f.Procedure != procSecretEventValueChanged ||
			msg.CallbackID != events.CallbackID || msg.OptSecret != def.OptSecret {
			t.Errorf("message %+v: %+v, error %v", f.Header, msg, err)
		}
	}
	c.must(procConnectSecretEventDeregisterAny, &libvirt.ConnectSecretEventDeregisterAnyArgs{CallbackID: events.CallbackID}, nil)
	var value libvirt.SecretGetValueRet
	c.must(procSecretGetValue, &libvirt.SecretGetValueArgs{OptSecret: def.OptSecret}, &value)
	if string(value.Value) != "value" {
		t.Errorf("value %q", value.Value)
	}
	var found libvirt.SecretLookupByUsageRet
	c.must(procSecretLookupByUsage, &libvirt.SecretLookupByUsageArgs{UsageType: 2, UsageID: "pool"}, &found)
	var all libvirt.ConnectListAllSecretsRet
	c.must(procConnectListAllSecrets, &libvirt.ConnectListAllSecretsArgs{NeedResults: 1, Flags: libvirt.ConnectListSecretsNoPrivate}, &all)
	if found.OptSecret != def.OptSecret || len(all.Secrets) != 1 {
		t.Errorf("found %+v, listed %+v", found, all)
	}
	c.must(procSecretUndefine, &libvirt.SecretUndefineArgs{OptSecret: def.OptSecret}, nil)
	var n libvirt.ConnectNumOfSecretsRet
	if c.must(procConnectNumOfSecrets, &void{}, &n); n.Num != 0 {
		t.Errorf("%d secrets are left", n.Num)
	}
}

func TestPoolEventsOverTheWire(t *testing.T) {
	b := newBench(t, Limits{})
	c, listener := b.openLocal(b.path), b.openLocal(b.ro)
	var life, refresh libvirt.ConnectStoragePoolEventRegisterAnyRet
	listener.must(procConnectStoragePoolEventRegisterAny, &libvirt.ConnectStoragePoolEventRegisterAnyArgs{EventID: 0}, &life)
	listener.must(procConnectStoragePoolEventRegisterAny, &libvirt.ConnectStoragePoolEventRegisterAnyArgs{EventID: 1}, &refresh)
	p := c.pool("one")
	c.must(procStoragePoolRefresh, &libvirt.StoragePoolRefreshArgs{Pool: p}, nil)
	for _, want := range []int32{0, 2} {
		f := listener.recv()
		var msg libvirt.StoragePoolEventLifecycleMsg
		if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || f.Procedure != procStoragePoolEventLifecycle || msg.Event != want || msg.CallbackID != life.CallbackID || msg.Pool != p {
			t.Errorf("message %+v: %+v, error %v", f.Header, msg, err)
		}
	}
	f := listener.recv()
	var msg libvirt.StoragePoolEventRefreshMsg
	if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || f.Procedure != procStoragePoolEventRefresh || msg.CallbackID != refresh.CallbackID {
		t.Errorf("message %+v: %+v, error %v", f.Header, msg, err)
	}
	if e := listener.call(procConnectSecretEventDeregisterAny, &libvirt.ConnectSecretEventDeregisterAnyArgs{CallbackID: life.CallbackID}, nil); e == nil {
		t.Error("a pool's callback was deregistered as a secret's")
	}
}
