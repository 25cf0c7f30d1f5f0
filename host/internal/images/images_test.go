package images

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/verr"
)

const gib = 1 << 30

// header returns a qcow2 header of version 3 with a size, and a backing file if one is named.
func header(size uint64, backing, format string) []byte {
	b := make([]byte, 512)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], 16)
	binary.BigEndian.PutUint64(b[24:], size)
	binary.BigEndian.PutUint32(b[100:], 104)
	if backing == "" {
		return b
	}
	binary.BigEndian.PutUint32(b[104:], extensionFormat)
	binary.BigEndian.PutUint32(b[108:], uint32(len(format)))
	copy(b[112:], format)
	binary.BigEndian.PutUint64(b[8:], 256)
	binary.BigEndian.PutUint32(b[16:], uint32(len(backing)))
	copy(b[256:], backing)
	return b
}

// change returns a copy with other bytes at an offset.
func change(b []byte, at int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], with)
	return b
}

// folder makes a folder with images of all kinds and things that are none.
func folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pool of images")
	iso := make([]byte, 40000)
	copy(iso[isoOffset:], isoMagic)
	err := errors.Join(
		os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "a.qcow2"), header(gib, "", ""), 0o640),
		os.WriteFile(filepath.Join(dir, "b.img"), make([]byte, 8192), 0o600),
		os.WriteFile(filepath.Join(dir, "c.iso"), iso, 0o600),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "bad\nname"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "folder"), 0o755),
		os.Symlink("a.qcow2", filepath.Join(dir, "link")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func noDisks() []string { return nil }

func TestVolumesAreFilesAndBlockDevices(t *testing.T) {
	dir := folder(t)
	p := New(func() []string { return []string{dir} })
	pool, err := p.ByPath(dir + "/")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pool.Volumes(t.Context())
	if want := []string{"a.qcow2", "b.img", "c.iso", "empty", "link"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("volumes %q, %v; want %q", names, err, want)
	}
	for name, tt := range map[string]struct {
		format   string
		capacity uint64
	}{
		"a.qcow2": {"qcow2", gib},
		"b.img":   {"raw", 8192},
		"c.iso":   {"iso", 40000},
		"empty":   {"raw", 0},
		"link":    {"qcow2", gib},
	} {
		v, err := pool.Volume(t.Context(), name)
		if err != nil || v.Image.Format != tt.format || v.Capacity != tt.capacity || v.Pool != pool || v.Path != filepath.Join(dir, name) {
			t.Errorf("volume %s is %+v, %v; want %+v", name, v, err, tt)
		}
	}
	for _, name := range []string{"", ".", "..", "folder", "fifo", "dangling", "loop", "nobody", "../pool of images/a.qcow2", "bad\nname"} {
		if v, err := pool.Volume(t.Context(), name); !verr.Is(err, verr.NoStorageVol) {
			t.Errorf("volume %q is %+v, %v; want none", name, v, err)
		}
	}
}

func TestLookupByPath(t *testing.T) {
	dir := folder(t)
	for name, tt := range map[string]struct {
		path  string
		add   bool
		finds bool
	}{
		"a file in a folder that nobody asked for":      {dir + "/b.img", true, true},
		"a path that is not clean":                      {dir + "/folder/..//b.img", true, true},
		"a file, by a client that may only read":        {dir + "/b.img", false, false},
		"a path that is not absolute":                   {"b.img", true, false},
		"a path of nothing":                             {dir + "/nothing", true, false},
		"a path below a file":                           {dir + "/b.img/x", true, false},
		"a folder":                                      {dir, true, false},
		"the root":                                      {"/", true, false},
		"an empty path":                                 {"", true, false},
		"a FIFO, which would block whoever opens it":    {dir + "/fifo", true, false},
		"a character device":                            {"/dev/zero", true, false},
		"a file of the kernel's":                        {"/proc/version", true, false},
		"a path that is longer than any":                {"/" + strings.Repeat("x/", 4096), true, false},
		"a name that is longer than any":                {dir + "/" + strings.Repeat("x", 300), true, false},
		"a name that no document can have":              {dir + "/bad\nname", true, false},
		"a name with a character that ends it in C":     {dir + "/b.img\x00", true, false},
		"a device by a folder that is not in /dev":      {"/dev/../dev/null", true, false},
		"a loop of links, which has no file at its end": {dir + "/loop", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(noDisks)
			v, err := p.Lookup(t.Context(), tt.path, tt.add)
			if !tt.finds {
				if !verr.Is(err, verr.NoStorageVol) || len(p.All()) != 0 {
					t.Fatalf("found %+v, %v, and %d pools", v, err, len(p.All()))
				}
				return
			}
			if err != nil || v.Pool == nil || v.Pool.Path != dir {
				t.Fatalf("found %+v, %v", v, err)
			}
			if again, err := p.Lookup(t.Context(), tt.path, false); err != nil || again.Pool != v.Pool {
				t.Fatalf("a client that only reads finds %+v, %v in a known pool", again, err)
			}
		})
	}
}

func TestPools(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "images"), filepath.Join(t.TempDir(), "images")
	if err := errors.Join(os.Mkdir(one, 0o755), os.Mkdir(two, 0o755)); err != nil {
		t.Fatal(err)
	}
	folders := []string{two, one, two, "/dev/vg", "relative", "/", "/not/there"}
	p := New(func() []string { return folders })
	all := p.All()
	if len(all) != 4 {
		t.Fatalf("%d pools, want those of /, the two folders, and the one that is gone", len(all))
	}
	names := map[string]bool{}
	for _, pool := range all {
		names[pool.Name] = true
		byName, nerr := p.ByName(pool.Name)
		byUUID, uerr := p.ByUUID(pool.UUID)
		byPath, perr := p.ByPath(pool.Path)
		if byName != pool || byUUID != pool || byPath != pool || errors.Join(nerr, uerr, perr) != nil {
			t.Errorf("pool %s is found as %v, %v, %v", pool.Path, byName, byUUID, byPath)
		}
	}
	if len(names) != 4 || !names["images"] || !names["root"] {
		t.Errorf("names are %v", names)
	}
	if again := New(func() []string { return []string{one} }).All(); again[0].UUID != all[slices.IndexFunc(all, func(x *Pool) bool { return x.Path == one })].UUID {
		t.Error("the UUID of a folder changes")
	}
	if _, err := p.ByUUID(uuid.Nil); !verr.Is(err, verr.NoStoragePool) {
		t.Errorf("pool of no UUID: %v", err)
	}
}

func TestInfo(t *testing.T) {
	dir := t.TempDir()
	p := New(func() []string { return []string{dir, "/not/there"} })
	for path, want := range map[string]State{dir: Running, "/not/there": Inaccessible} {
		pool, err := p.ByPath(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := pool.Info(t.Context())
		if err != nil || info.State != want || (info.Capacity > 0) != (want == Running) || info.Available > info.Capacity {
			t.Errorf("info of %s is %+v, %v; want state %d", path, info, err, want)
		}
		if names, err := pool.Volumes(t.Context()); err != nil || len(names) != 0 {
			t.Errorf("volumes of %s are %v, %v", path, names, err)
		}
	}
}

func TestTheOldestPoolMakesRoom(t *testing.T) {
	p := New(noDisks)
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range maxPools {
		p.add(filepath.Join("/pools", uuid.NewSHA1(uuid.Nil, []byte{byte(n), byte(n >> 8)}).String()))
	}
	p.add("/pools/last")
	if len(p.byPath) != maxPools || len(p.byName) != maxPools || p.byPath["/pools/last"] == nil {
		t.Fatalf("%d pools with %d names", len(p.byPath), len(p.byName))
	}
}

// TestAFolderThatHangs holds that callers of one folder give up by their own deadline and that other folders answer meanwhile.
func TestAFolderThatHangs(t *testing.T) {
	all, own, other := semaphore.NewWeighted(looksAtAll), semaphore.NewWeighted(looksPerPool), semaphore.NewWeighted(looksPerPool)
	hang := make(chan struct{})
	ended := make(chan struct{}, looksPerPool)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range looksPerPool {
		patient, giveUp := context.WithCancel(t.Context())
		_, err := look(patient, all, own, "/hangs", func() (int, error) {
			defer func() { ended <- struct{}{} }()
			giveUp()
			<-hang
			return 1, nil
		})
		if !verr.Is(err, verr.OperationTimeout) {
			t.Fatalf("look at a folder that hangs: %v", err)
		}
	}
	if _, err := look(gone, all, own, "/hangs", func() (int, error) { t.Error("one look too many"); return 1, nil }); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("look at a folder that everybody waits for: %v", err)
	}
	if n, err := look(t.Context(), all, other, "/answers", func() (int, error) { return 2, nil }); n != 2 || err != nil {
		t.Errorf("look at another folder: %d, %v", n, err)
	}
	close(hang)
	for range looksPerPool {
		<-ended
	}
	if n, err := look(t.Context(), all, own, "/hangs", func() (int, error) { return 3, nil }); n != 3 || err != nil {
		t.Errorf("look at a folder that answers again: %d, %v", n, err)
	}
}

// TestDocumentsFitTheSchemas holds the XML against libvirt's own schemas.
func TestDocumentsFitTheSchemas(t *testing.T) {
	const schemas = "/usr/share/libvirt/schemas"
	if _, err := exec.LookPath("xmllint"); err != nil {
		t.Skip("xmllint is not installed")
	}
	if _, err := os.Stat(schemas); err != nil {
		t.Skip("libvirt's schemas are not installed")
	}
	dir := folder(t)
	if err := os.WriteFile(filepath.Join(dir, "over<&>.qcow2"), header(gib, "a.qcow2", "qcow2"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := New(func() []string { return []string{dir, "/not/there"} })
	check := func(schema, doc string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "xmllint", "--noout", "--relaxng", filepath.Join(schemas, schema), "-")
		cmd.Stdin = strings.NewReader(doc)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s\n%s", err, out, doc)
		}
	}
	for _, pool := range p.All() {
		doc, err := pool.XML(t.Context())
		check("storagepool.rng", doc, err)
		names, err := pool.Volumes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			v, err := pool.Volume(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := v.XML()
			check("storagevol.rng", doc, err)
		}
	}
}
