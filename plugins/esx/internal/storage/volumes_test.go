package storage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const mib = 1 << 20

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfAllFoldersAreVolumes(t *testing.T) {
	for _, vpx := range []bool{false, true} {
		b := open(t, vimtest.Options{VPX: vpx, Machines: 1})
		pool, dir := b.vmfs("ds1")
		disk := b.create(pool, "web/web.vmdk", 4*mib, "")
		slim := b.create(pool, "web/deep/er/slim.vmdk", 8*mib, thin)
		put(t, dir, "iso/boot.iso", pattern(5000, 1))
		put(t, dir, "top.iso", pattern(10, 1))
		put(t, dir, "boot.flp", pattern(1474, 2))
		put(t, dir, "web/web.vmx", nil)
		put(t, dir, "web/vmware.log", nil)
		all := b.volumes(pool)
		for name, want := range map[string]*pb.Volume{
			"web/web.vmdk":          {Format: "vmdk", Capacity: 4 * mib, Allocation: 4 * mib, Key: disk.GetKey()},
			"web/deep/er/slim.vmdk": {Format: "vmdk", Capacity: 8 * mib, Allocation: slim.GetAllocation(), Key: slim.GetKey()},
			"iso/boot.iso":          {Format: "iso", Capacity: 5000, Allocation: 5000, Key: "[ds1] iso/boot.iso"},
			"top.iso":               {Format: "iso", Capacity: 10, Allocation: 10, Key: "[ds1] top.iso"},
			"boot.flp":              {Format: "raw", Capacity: 1474, Allocation: 1474, Key: "[ds1] boot.flp"},
		} {
			looked, err := b.driver.Look(b.ctx(), pool, name)
			if err != nil {
				t.Errorf("look at %s: %v", name, err)
			}
			for how, got := range map[string]*pb.Volume{"refresh": all[name], "look": looked} {
				if got.GetName() != name || got.GetPath() != "[ds1] "+name || got.GetKey() != want.GetKey() || got.GetFormat() != want.GetFormat() ||
					got.GetCapacity() != want.GetCapacity() || got.GetAllocation() != want.GetAllocation() || got.GetType() != pb.VolumeType_VOLUME_TYPE_FILE {
					t.Errorf("%s tells %v of %s", how, got, name)
				}
			}
		}
		if len(all) != 5 || disk.GetKey() == slim.GetKey() || len(disk.GetKey()) != 36 {
			t.Errorf("%d volumes; the keys of disks are %q and %q", len(all), disk.GetKey(), slim.GetKey())
		}
		for _, name := range []string{"web/other.vmdk", "none/web.vmdk", "web/web.vmx", "web", "web/web-flat.vmdk", "web/*.vmdk", "web/w?b.vmdk"} {
			_, err := b.driver.Look(b.ctx(), pool, name)
			b.wantCode("look at "+name, err, verr.NoStorageVol)
		}
	}
}

func TestDisksAreMadeThinAndThickOnly(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	thick := b.create(pool, "a/thick.vmdk", 3*mib+1, "<allocation>3145729</allocation><target><format type='vmdk'/></target>")
	if thick.GetCapacity() != 3*mib+1024 || thick.GetAllocation() != thick.GetCapacity() {
		t.Errorf("thick is %v", thick)
	}
	if slim := b.create(pool, "a/thin.vmdk", 3*mib, thin); slim.GetCapacity() != 3*mib || slim.GetAllocation() > 4096 {
		t.Errorf("thin is %v", slim)
	}
	iso := b.create(pool, "iso/empty.iso", 300_001, "")
	if iso.GetCapacity() != 300_001 || iso.GetFormat() != "iso" {
		t.Errorf("the ISO image is %v", iso)
	}
	files := []string{"a/thick-flat.vmdk", "a/thick.vmdk", "a/thin-flat.vmdk", "a/thin.vmdk", "iso/empty.iso"}
	b.wantFiles(dir, files...)
	for what, c := range map[string]struct {
		xml  string
		code verr.Code
		word string
	}{
		"no folder":         {definition("a.vmdk", mib, ""), verr.InvalidArg, "<folder>/<file>"},
		"no suffix":         {definition("a/b", mib, ""), verr.InvalidArg, "suffix"},
		"another suffix":    {definition("a/b.qcow2", mib, ""), verr.InvalidArg, "suffix"},
		"another format":    {definition("a/b.vmdk", mib, "<target><format type='raw'/></target>"), verr.InvalidArg, "format"},
		"a foreign format":  {definition("a/b.vmdk", mib, "<target><format type='qcow2'/></target>"), verr.ConfigUnsupported, "qcow2"},
		"half allocated":    {definition("a/b.vmdk", mib, "<allocation>4096</allocation>"), verr.ConfigUnsupported, "4096"},
		"no capacity":       {definition("a/b.vmdk", 0, ""), verr.InvalidArg, "capacity"},
		"too big":           {definition("a/b.vmdk", 63<<40, ""), verr.Overflow, "too big"},
		"a backing store":   {definition("a/b.vmdk", mib, "<backingStore><path>/x</path><format type='vmdk'/></backingStore>"), verr.ConfigUnsupported, "backing"},
		"thin ISO":          {definition("a/b.iso", mib, thin), verr.ConfigUnsupported, "allocation"},
		"a name for making": {definition("a/.lodge-making-1.vmdk", mib, ""), verr.InvalidArg, "being made"},
		"an existing one":   {definition("a/thin.vmdk", mib, ""), verr.StorageVolExist, "thin.vmdk"},
	} {
		_, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: c.xml}, noProgress)
		if got := verr.From(err); err == nil || got.Code != c.code || !strings.Contains(got.Message, c.word) {
			t.Errorf("%s: %v, want code %d about %q", what, err, c.code, c.word)
		}
	}
	_, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition("a/b.vmdk", mib, ""), Flags: 1}, noProgress)
	b.wantCode("a flag", err, verr.InvalidArg, "flags")
	b.wantFiles(dir, files...)
}

// hostile are names that mean another file, or that a host would take for one.
var hostile = []string{
	"../x.vmdk", "a/../../x.vmdk", "/etc/x.iso", "a//b.vmdk", "a/./b.vmdk", "a/b.vmdk/", "a/ b.vmdk", "a\nb/c.vmdk", "a/b\x00.vmdk", "\xff/a.vmdk",
	strings.Repeat("n", 256) + "/a.vmdk", strings.Repeat("n/", 2000) + "a.vmdk", "",
}

// odd are names that are good, and that a careless driver spoils.
var odd = []string{
	"a b/c d.vmdk", "a[b]/]c[.vmdk", "100%/%41.vmdk", "a?b/c?.vmdk", "#/#.vmdk", "größe/日本語.vmdk", "a+b/c;d&e=f.vmdk", "a*/*.vmdk", "-h/--help.vmdk",
	"$(x)/`y`'z.vmdk", "a%2fb/c.vmdk", "x/-flat.flat.vmdk", "[ds1] a/[ds1] b.vmdk", "A/a.vmdk", "x.vmdk/y.vmdk",
}

func TestHostileNamesAreRefusedAndTouchNothing(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	put(t, filepath.Dir(dir), "x.vmdk", []byte("outside"))
	put(t, dir, "x.iso", []byte("inside"))
	escape := strings.NewReplacer("\n", "&#10;", "\x00", "", "\xff", "")
	for _, name := range hostile {
		lie := &pb.Volume{Name: name, Key: name, Path: "[ds1] x.iso", Capacity: 1, Format: "vmdk"}
		_, err := b.driver.Look(b.ctx(), pool, name)
		b.wantCode("look at "+name, err, verr.InvalidArg)
		b.wantCode("remove "+name, b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: lie}), verr.InvalidArg)
		b.wantCode("wipe "+name, b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: lie}, noProgress), verr.InvalidArg)
		_, err = b.driver.Resize(b.ctx(), &pb.ResizeRequest{Pool: pool, Volume: lie, Capacity: mib})
		b.wantCode("resize "+name, err, verr.InvalidArg)
		_, err = b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: lie})
		b.wantCode("download "+name, err, verr.InvalidArg)
		_, err = b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: lie})
		b.wantCode("upload "+name, err, verr.InvalidArg)
		_, err = b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, FromPool: pool, From: lie, Xml: definition("a/b.vmdk", mib, "")}, noProgress)
		b.wantCode("copy "+name, err, verr.InvalidArg)
		if escape.Replace(name) != name && !strings.Contains(name, "\n") {
			continue // XML cannot have it
		}
		_, err = b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition(escape.Replace(name), mib, "")}, noProgress)
		if err == nil {
			t.Errorf("%q is made", name)
		}
	}
	b.wantFiles(dir, "x.iso")
	if left, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "x.vmdk")); err != nil || string(left) != "outside" {
		t.Errorf("a file outside of the datastore is %q, %v", left, err)
	}
}

func TestOddNamesAreJustNames(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	escape := strings.NewReplacer("&", "&amp;")
	data := pattern(2*mib, 3)
	for _, name := range odd {
		v := b.create(pool, escape.Replace(name), 2*mib, "")
		if v.GetName() != name || v.GetPath() != "[ds1] "+name {
			t.Errorf("%q is made as %v", name, v)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if err := b.write(pool, v, 0, data); err != nil {
			t.Errorf("upload to %q: %v", name, err)
		}
		if got, err := b.read(pool, v, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q comes back as %d bytes, %v", name, len(got), err)
		}
	}
	const dots = "a..b/..c.vmdk" // the simulator gives no access to what is in it
	b.create(pool, dots, mib, "")
	all := b.volumes(pool)
	for _, name := range append(odd, dots) {
		v := all[name]
		if v == nil {
			t.Errorf("%q is not listed", name)
			continue
		}
		if err := b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}); err != nil {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	b.wantFiles(dir)
}

func TestVolumesAreCopied(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	other, dir := b.vmfs("ds2")
	from := b.create(pool, "a/from.vmdk", 2*mib, "")
	data := pattern(2*mib, 1)
	if err := b.write(pool, from, 0, data); err != nil {
		t.Fatal(err)
	}
	copied := func(to *pb.Pool, v *pb.Volume, xml string) (*pb.Volume, error) {
		return b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: to, FromPool: pool, From: v, Xml: xml}, noProgress)
	}
	for _, to := range []*pb.Pool{pool, other} {
		v, err := copied(to, from, definition("b/copy.vmdk", 2*mib, ""))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.read(to, v, 0, 0); err != nil || !bytes.Equal(got, data) || v.GetKey() == from.GetKey() {
			t.Errorf("the copy in %s has %d bytes (%v), key %s", to.GetName(), len(got), err, v.GetKey())
		}
	}
	big, err := copied(other, from, definition("b/bigger.vmdk", 5*mib, thin))
	if err != nil || big.GetCapacity() != 5*mib {
		t.Fatalf("a bigger copy is %v, %v", big, err)
	}
	if got, err := b.read(other, big, 0, 0); err != nil || !bytes.Equal(got, append(data, make([]byte, 3*mib)...)) {
		t.Errorf("the bigger copy has %d bytes, %v", len(got), err)
	}
	iso := b.create(pool, "i/a.iso", 1000, "")
	if _, err := copied(other, iso, definition("i/b.iso", 1000, "")); err != nil {
		t.Errorf("copy of an ISO image: %v", err)
	}
	_, err = copied(other, iso, definition("i/c.vmdk", 1000, ""))
	b.wantCode("copy into another format", err, verr.ConfigUnsupported, "iso")
	_, err = copied(other, iso, definition("i/c.iso", 2000, ""))
	b.wantCode("a bigger copy of an ISO image", err, verr.ConfigUnsupported, "1000")
	_, err = copied(other, &pb.Volume{Name: "no/no.vmdk", Format: "vmdk"}, definition("i/d.vmdk", 1000, ""))
	b.wantCode("copy of what is not there", err, verr.NoStorageVol, "no/no.vmdk")
	b.server.AddTarget("iqn.a", "10.0.0.7", 3260)
	target := b.pool("iqn.a")
	_, err = b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, FromPool: target, From: iso, Xml: definition("i/d.iso", 1000, "")}, noProgress)
	b.wantCode("copy of a unit", err, verr.NoSupport)
	far := &pb.Pool{Uuid: pool.GetUuid(), Connection: "esx:///far"}
	_, err = b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, FromPool: far, From: iso, Xml: definition("i/d.iso", 1000, "")}, noProgress)
	b.wantCode("copy from another endpoint", err, verr.NoSupport)
	b.wantFiles(dir, "b/bigger-flat.vmdk", "b/bigger.vmdk", "b/copy-flat.vmdk", "b/copy.vmdk", "i/b.iso")
}

func TestOneOfManyGetsAName(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	var mu sync.Mutex
	var all sync.WaitGroup
	made := 0
	for range 8 {
		all.Go(func() {
			_, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition("a/b.vmdk", mib, "")}, noProgress)
			if err != nil {
				b.wantCode("one of many", err, verr.StorageVolExist)
				return
			}
			mu.Lock()
			made++
			mu.Unlock()
		})
	}
	all.Wait()
	if made != 1 {
		t.Errorf("%d of 8 have made it", made)
	}
	b.wantFiles(dir, "a/b-flat.vmdk", "a/b.vmdk")
}

func TestDisksGrow(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	disk, slim, iso := b.create(pool, "a/b.vmdk", mib, ""), b.create(pool, "a/thin.vmdk", mib, thin), b.create(pool, "a/c.iso", 100, "")
	resize := func(v *pb.Volume, capacity uint64, flags uint32) (*pb.Volume, error) {
		return b.driver.Resize(b.ctx(), &pb.ResizeRequest{Pool: pool, Volume: v, Capacity: capacity, Flags: flags})
	}
	for _, capacity := range []uint64{2 * mib, 2 * mib, 2*mib + 512} {
		v, err := resize(disk, capacity, 1)
		if err != nil || v.GetCapacity() < capacity || v.GetCapacity() >= capacity+1024 || v.GetKey() != disk.GetKey() {
			t.Errorf("resized to %d it is %v, %v", capacity, v, err)
		}
	}
	_, err := resize(disk, mib, 4)
	b.wantCode("shrink", err, verr.OperationUnsupported, "smaller")
	_, err = resize(slim, 2*mib, 1)
	b.wantCode("extend a thin one with room", err, verr.OperationUnsupported, "thin")
	if v, err := resize(slim, 2*mib, 0); err != nil || v.GetCapacity() != 2*mib {
		t.Errorf("the thin one is %v, %v", v, err)
	}
	_, err = resize(iso, 200, 0)
	b.wantCode("resize an ISO image", err, verr.NoSupport)
	_, err = resize(disk, 63<<40, 0)
	b.wantCode("too big", err, verr.Overflow)
	_, err = resize(disk, 4*mib, 2)
	b.wantCode("a flag", err, verr.InvalidArg)
	_, err = resize(&pb.Volume{Name: "a/none.vmdk"}, 4*mib, 0)
	b.wantCode("resize what is not there", err, verr.NoStorageVol)
	if stat, err := os.Stat(filepath.Join(dir, "a/b-flat.vmdk")); err != nil || stat.Size() != 2*mib+1024 {
		t.Errorf("its extent is %v, %v", stat, err)
	}
}

func TestDisksAreWipedAndDeleted(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	disk, iso := b.create(pool, "a/b.vmdk", mib, ""), b.create(pool, "a/c.iso", 100, "")
	if err := b.write(pool, disk, 0, pattern(mib, 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: disk}, noProgress); err != nil {
		t.Fatal(err)
	}
	if got, err := b.read(pool, disk, 0, 0); err != nil || !bytes.Equal(got, make([]byte, mib)) {
		t.Errorf("after it was wiped it has %d bytes, %v", len(got), err)
	}
	b.wantCode("wipe with patterns", b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: disk, Algorithm: 4}, noProgress), verr.ArgumentUnsupported)
	b.wantCode("wipe an ISO image", b.driver.Wipe(b.ctx(), &pb.WipeRequest{Pool: pool, Volume: iso}, noProgress), verr.NoSupport)
	b.wantCode("delete with a flag", b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: iso, Flags: 1}), verr.InvalidArg)
	for _, v := range []*pb.Volume{disk, iso} {
		if err := b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}); err != nil {
			t.Errorf("delete %s: %v", v.GetName(), err)
		}
		b.wantCode("delete it again", b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}), verr.NoStorageVol)
	}
	b.wantFiles(dir)
}

func TestCopiesOfFilesDoNotShareAKey(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "b/b.vmdk", mib, "")
	text, err := os.ReadFile(filepath.Join(dir, "b/b.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a/b.vmdk", text)
	put(t, dir, "c/b.vmdk", text)
	all := b.volumes(pool)
	if all["b/b.vmdk"].GetKey() != v.GetKey() || all["a/b.vmdk"].GetKey() != "[ds1] a/b.vmdk" || all["c/b.vmdk"].GetKey() != "[ds1] c/b.vmdk" {
		t.Errorf("the keys are %v", all)
	}
	looked, err := b.driver.Look(b.ctx(), pool, "c/b.vmdk")
	if err != nil || looked.GetKey() != "[ds1] c/b.vmdk" {
		t.Errorf("looked at, a copy is %v, %v", looked, err)
	}
	if err := b.driver.Remove(b.ctx(), &pb.RemoveRequest{Pool: pool, Volume: v}); err != nil {
		t.Fatal(err)
	}
	again := b.create(pool, "b/b.vmdk", mib, "")
	if again.GetKey() == v.GetKey() || b.volumes(pool)["b/b.vmdk"].GetKey() != again.GetKey() {
		t.Errorf("another disk of the name has the key %s of the one before", again.GetKey())
	}
}
