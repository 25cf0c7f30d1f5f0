package door

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
)

// put writes an image into a folder.
func put(t *testing.T, folder, name string) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestImportOfAPath is what virt-install asks of storage before it uses an image in a folder that the host does not show yet.
func TestImportOfAPath(t *testing.T) {
	b := newBench(t, Limits{})
	folder := filepath.Join(t.TempDir(), "mine")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	path := put(t, folder, "a.img")
	reader, c := b.openLocal(b.ro), b.openLocal(b.path)
	byPath := &libvirt.StorageVolLookupByPathArgs{Path: path}
	if e := reader.call(procStorageVolLookupByPath, byPath, nil); e == nil || e.Code != 50 || e.Domain != 18 {
		t.Fatalf("a client that only reads makes a folder a pool: %+v", e)
	}
	var vol libvirt.StorageVolLookupByPathRet
	c.must(procStorageVolLookupByPath, byPath, &vol)
	if want := (libvirt.StorageVol{Pool: "mine", Name: "a.img", Key: path}); vol.Vol != want {
		t.Fatalf("volume %+v, want %+v", vol.Vol, want)
	}
	for _, c := range []*raw{c, reader} {
		var pool libvirt.StoragePoolLookupByVolumeRet
		c.must(procStoragePoolLookupByVolume, &libvirt.StoragePoolLookupByVolumeArgs{Vol: vol.Vol}, &pool)
		var info libvirt.StorageVolGetInfoRet
		if c.must(procStorageVolGetInfo, &libvirt.StorageVolGetInfoArgs{Vol: vol.Vol}, &info); info.Capacity != 4096 {
			t.Errorf("info %+v", info)
		}
		var xml libvirt.StorageVolGetXMLDescRet
		if c.must(procStorageVolGetXmlDesc, &libvirt.StorageVolGetXMLDescArgs{Vol: vol.Vol}, &xml); !strings.Contains(xml.XML, "<format type='raw'/>") {
			t.Errorf("volume is %s", xml.XML)
		}
		var desc libvirt.StoragePoolGetXMLDescRet
		if c.must(procStoragePoolGetXmlDesc, &libvirt.StoragePoolGetXMLDescArgs{Pool: pool.Pool}, &desc); !strings.Contains(desc.XML, "<path>"+folder+"</path>") {
			t.Errorf("pool is %s", desc.XML)
		}
	}
	other := vol.Vol
	other.Key = "/elsewhere"
	if e := c.call(procStorageVolGetInfo, &libvirt.StorageVolGetInfoArgs{Vol: other}, nil); e == nil || e.Code != 50 {
		t.Errorf("a volume with another key: %+v", e)
	}
}

func TestPoolLists(t *testing.T) {
	b := newBench(t, Limits{})
	put(t, b.folder, "a.img")
	c := b.openLocal(b.ro)
	for _, tt := range []struct {
		name  string
		flags libvirt.ConnectListAllStoragePoolsFlags
		want  int
	}{
		{"no flags mean all", 0, 1},
		{"active ones", libvirt.ConnectListStoragePoolsActive, 1},
		{"inactive ones", libvirt.ConnectListStoragePoolsInactive, 0},
		{"persistent ones", libvirt.ConnectListStoragePoolsPersistent, 0},
		{"those that the host starts", libvirt.ConnectListStoragePoolsAutostart, 0},
		{"folders", libvirt.ConnectListStoragePoolsDir, 1},
		{"volume groups", libvirt.ConnectListStoragePoolsLogical, 0},
		{"volume groups and folders that are active", libvirt.ConnectListStoragePoolsLogical | libvirt.ConnectListStoragePoolsDir | libvirt.ConnectListStoragePoolsActive, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var ret libvirt.ConnectListAllStoragePoolsRet
			args := &libvirt.ConnectListAllStoragePoolsArgs{NeedResults: 1, Flags: tt.flags}
			if c.must(procConnectListAllStoragePools, args, &ret); len(ret.Pools) != tt.want || int(ret.Ret) != tt.want {
				t.Fatalf("pools %+v, want %d", ret, tt.want)
			}
		})
	}
	var names libvirt.ConnectListStoragePoolsRet
	c.must(procConnectListStoragePools, &libvirt.ConnectListStoragePoolsArgs{Maxnames: 5}, &names)
	var all libvirt.ConnectListAllStoragePoolsRet
	c.must(procConnectListAllStoragePools, &libvirt.ConnectListAllStoragePoolsArgs{NeedResults: 1}, &all)
	if len(names.Names) != 1 || names.Names[0] != all.Pools[0].Name {
		t.Fatalf("names %q", names.Names)
	}
	var vols libvirt.StoragePoolListAllVolumesRet
	c.must(procStoragePoolListAllVolumes, &libvirt.StoragePoolListAllVolumesArgs{Pool: all.Pools[0], NeedResults: 1}, &vols)
	if len(vols.Vols) != 1 || vols.Vols[0].Key != filepath.Join(b.folder, "a.img") {
		t.Fatalf("volumes %+v", vols)
	}
	var active libvirt.StoragePoolIsActiveRet
	if c.must(procStoragePoolIsActive, &libvirt.StoragePoolIsActiveArgs{Pool: all.Pools[0]}, &active); active.Active != 1 {
		t.Error("the folder is no active pool")
	}
	var state libvirt.StoragePoolGetInfoRet
	if c.must(procStoragePoolGetInfo, &libvirt.StoragePoolGetInfoArgs{Pool: all.Pools[0]}, &state); state.State != 2 || state.Capacity == 0 {
		t.Errorf("info %+v", state)
	}
}

func TestStorageIsNotChanged(t *testing.T) {
	b := newBench(t, Limits{})
	put(t, b.folder, "a.img")
	local, reader, elsewhere := b.openLocal(b.path), b.openLocal(b.ro), b.open(b.path)
	for name, tt := range map[string]struct {
		c    *raw
		proc int32
		args any
		code int32
		says string
	}{
		"a pool is not defined":                {local, procStoragePoolDefineXml, &libvirt.StoragePoolDefineXMLArgs{XML: "<pool/>"}, 3, onlyShown},
		"a volume is not made":                 {local, procStorageVolCreateXml, &libvirt.StorageVolCreateXMLArgs{XML: "<volume/>"}, 3, onlyShown},
		"a volume is not deleted":              {local, procStorageVolDelete, &libvirt.StorageVolDeleteArgs{}, 3, onlyShown},
		"nor by a client that only reads":      {reader, procStorageVolDelete, &libvirt.StorageVolDeleteArgs{}, 29, "read only"},
		"a pool that is not there":             {local, procStoragePoolLookupByName, &libvirt.StoragePoolLookupByNameArgs{Name: "x"}, 49, "'x'"},
		"unknown flags":                        {local, procConnectListAllStoragePools, &libvirt.ConnectListAllStoragePoolsArgs{Flags: 1 << 30}, 8, "unsupported flags"},
		"a driver whose disks are elsewhere":   {elsewhere, procConnectNumOfStoragePools, &void{}, 3, "connect_num_of_storage_pools"},
		"nor does that driver look up a path":  {elsewhere, procStorageVolLookupByPath, &libvirt.StorageVolLookupByPathArgs{Path: "/x"}, 3, "storage_vol_lookup_by_path"},
		"nor does it say that pools are shown": {elsewhere, procStoragePoolDefineXml, &libvirt.StoragePoolDefineXMLArgs{}, 3, "storage_pool_define_xml"},
	} {
		t.Run(name, func(t *testing.T) {
			if e := tt.c.call(tt.proc, tt.args, nil); e == nil || e.Code != tt.code || !strings.Contains(*e.Message, tt.says) {
				t.Fatalf("error %+v, want code %d and %q", e, tt.code, tt.says)
			}
		})
	}
}
