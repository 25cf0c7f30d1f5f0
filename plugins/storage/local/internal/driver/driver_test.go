package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/storage/internal/qemuimg"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// bench is a driver behind the SDK's real server, and a pool.
type bench struct {
	*testing.T
	conn *grpc.ClientConn
	dir  string
	pool *pb.Pool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, conn: faketest.Client(t, Plugin("1.0.0")), dir: filepath.Join(t.TempDir(), "pool of images")}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.pool = b.define(fmt.Sprintf("<pool type='dir'><name>p</name><target><path>%s</path></target></pool>", b.dir))
	return b
}

// define has the driver complete a definition.
func (b *bench) define(text string) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: text})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml}
}

// create makes a volume.
func (b *bench) create(req *pb.CreateRequest) (*pb.Volume, error) {
	b.Helper()
	if req.Pool == nil {
		req.Pool = b.pool
	}
	stream, err := pb.NewVolumeServiceClient(b.conn).Create(b.Context(), req)
	if err != nil {
		return nil, err
	}
	var made *pb.Volume
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return made, nil
		}
		if err != nil {
			return nil, err
		}
		made = msg.Volume
	}
}

func (b *bench) must(req *pb.CreateRequest) *pb.Volume {
	b.Helper()
	v, err := b.create(req)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func vol(name string, size int, more string) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity>%s</volume>", name, size, more)
}

// refresh returns all volumes by name, and the size.
func (b *bench) refresh() (map[string]*pb.Volume, *pb.PoolSize) {
	b.Helper()
	stream, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: b.pool})
	if err != nil {
		b.Fatal(err)
	}
	all := map[string]*pb.Volume{}
	var size *pb.PoolSize
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, size
		}
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range msg.Volumes {
			all[v.Name] = v
		}
		size = msg.Size
	}
}

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}

func (b *bench) write(name string, data []byte) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o600); err != nil {
		b.Fatal(err)
	}
}

func TestRefreshTellsWhatIsThere(t *testing.T) {
	b := newBench(t)
	b.write("a.img", bytes.Repeat([]byte("x"), 8192))
	b.write("bad\nname", nil)
	b.write(workPrefix+"dead", []byte("left by a crash"))
	iso := make([]byte, 40000)
	copy(iso[16*2048+1:], "CD001")
	b.write("c.iso", iso)
	err := errors.Join(
		os.Mkdir(filepath.Join(b.dir, "folder"), 0o700), os.Symlink("a.img", filepath.Join(b.dir, "link")),
		os.Symlink("nowhere", filepath.Join(b.dir, "dangling")), os.Symlink("loop", filepath.Join(b.dir, "loop")),
		unix.Mkfifo(filepath.Join(b.dir, "fifo"), 0o600), os.Truncate(filepath.Join(b.dir, "a.img"), 1<<20),
	)
	if err != nil {
		t.Fatal(err)
	}
	// What is being made is left alone.
	f, err := openFolder(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	living, err := f.begin()
	if err != nil {
		t.Fatal(err)
	}
	defer living.end()
	all, size := b.refresh()
	var got []string
	for name, v := range all {
		got = append(got, fmt.Sprint(name, " ", v.Format, " ", v.Capacity))
	}
	slices.Sort(got)
	want := []string{"a.img raw 1048576", "c.iso iso 40000", "folder dir 0", "link raw 1048576"}
	if !slices.Equal(got, want) {
		t.Errorf("volumes %q, want %q", got, want)
	}
	if v := all["a.img"]; v.Allocation != 8192 || v.Path != filepath.Join(b.dir, "a.img") || v.Permissions.Mode != 0o600 {
		t.Errorf("volume %v", v)
	}
	if size.GetCapacity() == 0 || size.GetCapacity() < size.GetAvailable() {
		t.Errorf("size %v", size)
	}
	left, err := filepath.Glob(filepath.Join(b.dir, workPrefix+"*"))
	if err != nil || len(left) != 1 || left[0] != living.path() {
		t.Errorf("work left: %q, error %v", left, err)
	}
}

func TestRawVolumes(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		more      string
		allocated uint64
	}{"full": {"", 1 << 20}, "sparse": {"<allocation>0</allocation>", 0}, "half": {"<allocation unit='KiB'>512</allocation>", 512 << 10}} {
		v := b.must(&pb.CreateRequest{Xml: vol(name, 1<<20, c.more+"<target><permissions><mode>0644</mode></permissions></target>")})
		if v.Capacity != 1<<20 || v.Allocation != c.allocated || v.Format != "raw" || v.Permissions.Mode != 0o644 {
			t.Errorf("%s is %v", name, v)
		}
	}
	if _, err := b.create(&pb.CreateRequest{Xml: vol("full", 1, "")}); code(err) != verr.StorageVolExist {
		t.Errorf("made twice: %v", err)
	}
}

func TestFormatsByQEMU(t *testing.T) {
	if !qemuimg.Available() {
		t.Skip("qemu-img is not installed")
	}
	b := newBench(t)
	base := b.must(&pb.CreateRequest{Xml: vol("base, with a comma.qcow2", 1<<20, "<target><format type='qcow2'/><features><lazy_refcounts/></features></target>")})
	if base.Format != "qcow2" || base.Compat != "1.1" || !slices.Equal(base.Features, []string{"lazy_refcounts"}) || base.Capacity != 1<<20 {
		t.Errorf("base is %v", base)
	}
	over := b.must(&pb.CreateRequest{Xml: vol("over", 2<<20, fmt.Sprintf(
		"<target><format type='qcow2'/></target><backingStore><path>%s</path><format type='qcow2'/></backingStore>", base.Path))})
	if over.Backing.GetPath() != base.Path || over.Backing.GetFormat() != "qcow2" || over.Capacity != 2<<20 {
		t.Errorf("overlay is %v", over)
	}
	copied := b.must(&pb.CreateRequest{Xml: vol("copy", 1<<20, "<target><format type='vmdk'/></target>"), FromPool: b.pool, From: base})
	if copied.Format != "vmdk" || copied.Capacity != 1<<20 {
		t.Errorf("copy is %v", copied)
	}
	secret := []*pb.Secret{{Uuid: "x", Value: []byte("open sesame, or not")}}
	const encryption = "<target><format type='%s'/><encryption format='luks'><secret type='passphrase' uuid='12345678-1234-1234-1234-123456789abc'/></encryption></target>"
	for _, format := range []string{"raw", "qcow2"} {
		v := b.must(&pb.CreateRequest{Xml: vol("luks."+format, 1<<20, fmt.Sprintf(encryption, format)), Secrets: secret})
		if v.Encryption.GetFormat() != "luks" || v.Format != format || v.Capacity != 1<<20 {
			t.Errorf("encrypted %s is %v", format, v)
		}
	}
	if _, err := b.create(&pb.CreateRequest{Xml: vol("x", 1<<20, fmt.Sprintf(encryption, "raw"))}); code(err) != verr.OperationFailed {
		t.Errorf("without a passphrase: %v", err)
	}
	grown, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: base, Capacity: 3 << 20})
	if err != nil || grown.GetVolume().GetCapacity() != 3<<20 {
		t.Errorf("resized to %v, error %v", grown, err)
	}
}

// TestEncryptedVolumesAreCopied copies between all kinds of volumes that can be encrypted and such that are not, and reads each copy by a last
// copy into a raw volume.
func TestEncryptedVolumesAreCopied(t *testing.T) {
	if !qemuimg.Available() {
		t.Skip("qemu-img is not installed")
	}
	b := newBench(t)
	const size = 1 << 20
	want := bytes.Repeat([]byte("content "), size/8)
	b.write("plain", want)
	plain := b.look("plain")
	secrets := map[string][]*pb.Secret{"in": {{Uuid: "in", Value: []byte("first, with a comma")}}, "out": {{Uuid: "out", Value: []byte("second=")}}}
	const encryption = "<encryption format='luks'><secret type='passphrase' uuid='12345678-1234-1234-1234-123456789abc'/>%s</encryption>"
	target := func(format string, encrypted bool, cipher string) string {
		text := fmt.Sprintf("<target><format type='%s'/>", format)
		if encrypted {
			text += fmt.Sprintf(encryption, cipher)
		}
		return text + "</target>"
	}
	const cipher = "<cipher name='aes' size='128' mode='cbc' hash='sha256'/><ivgen name='plain64' hash='sha256'/>"
	n := 0
	copied := func(from *pb.Volume, to string, fromSecrets, toSecrets []*pb.Secret) *pb.Volume {
		t.Helper()
		n++
		return b.must(&pb.CreateRequest{
			Xml: vol(fmt.Sprint("copy, ", n), size, to), FromPool: b.pool, From: from, FromSecrets: fromSecrets, Secrets: toSecrets,
		})
	}
	// Few, since each key costs QEMU seconds of work.
	for _, in := range []struct{ format, cipher, other string }{{"raw", cipher, "qcow2"}, {"qcow2", "", "raw"}} {
		first := copied(plain, target(in.format, true, in.cipher), nil, secrets["in"])
		if first.Encryption.GetFormat() != "luks" || first.Format != in.format || first.Capacity != size {
			t.Fatalf("the encrypted copy is %v", first)
		}
		if text, err := os.ReadFile(first.Path); err != nil || bytes.Contains(text, []byte("content content")) {
			t.Errorf("%v: the content of an encrypted volume can be read, error %v", in, err)
		}
		second := copied(first, target(in.other, true, ""), secrets["in"], secrets["out"])
		third := copied(second, target("raw", false, ""), secrets["out"], nil)
		if got, err := os.ReadFile(third.Path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes came back changed, error %v", in, len(got), err)
		}
		if _, err := b.create(&pb.CreateRequest{Xml: vol("x", size, target("raw", false, "")), FromPool: b.pool, From: first}); code(err) != verr.OperationFailed {
			t.Errorf("copied without its passphrase: %v", err)
		}
		_, err := b.create(&pb.CreateRequest{Xml: vol("x", size, target("raw", false, "")), FromPool: b.pool, From: first, FromSecrets: secrets["out"]})
		if code(err) != verr.OperationFailed || strings.Contains(err.Error(), "second=") {
			t.Errorf("copied with another passphrase: %v", err)
		}
		grown, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{
			Pool: b.pool, Volume: first, Capacity: 2 * size, Secrets: secrets["in"],
		})
		if err != nil || grown.GetVolume().GetCapacity() != 2*size {
			t.Errorf("%v: grown to %v, error %v", in, grown, err)
		}
	}
}

// look finds a volume.
func (b *bench) look(name string) *pb.Volume {
	b.Helper()
	rsp, err := pb.NewVolumeServiceClient(b.conn).Look(b.Context(), &pb.LookRequest{Pool: b.pool, Name: name})
	if err != nil {
		b.Fatal(err)
	}
	return rsp.GetVolume()
}

func TestRefusedVolumes(t *testing.T) {
	b := newBench(t)
	b.write("there", nil)
	for name, c := range map[string]struct {
		xml  string
		want verr.Code
	}{
		"a name with a slash":        {vol("a/b", 1, ""), verr.XMLError},
		"a name that leads out":      {vol("..", 1, ""), verr.XMLError},
		"a name with a line break":   {vol("a&#10;b", 1, ""), verr.XMLError},
		"no size":                    {"<volume><name>a</name></volume>", verr.XMLError},
		"a size that is none":        {"<volume><name>a</name><capacity>x</capacity></volume>", verr.XMLError},
		"a negative size":            {"<volume><name>a</name><capacity>-1</capacity></volume>", verr.XMLError},
		"a size beyond numbers":      {"<volume><name>a</name><capacity unit='E'>9</capacity></volume>", verr.Overflow},
		"an unknown unit":            {"<volume><name>a</name><capacity unit='stone'>9</capacity></volume>", verr.InvalidArg},
		"a file that is there":       {vol("there", 1, ""), verr.StorageVolExist},
		"a format that is none":      {vol("a", 1, "<target><format type='jpeg'/></target>"), verr.XMLError},
		"a format that is not made":  {vol("a", 1, "<target><format type='dmg'/></target>"), verr.ConfigUnsupported},
		"a backing store unnamed":    {vol("a", 1, "<target><format type='qcow2'/></target><backingStore><path>/x</path></backingStore>"), verr.ConfigUnsupported},
		"a relative backing store":   {vol("a", 1, "<target><format type='qcow2'/></target><backingStore><path>x</path><format type='raw'/></backingStore>"), verr.ConfigUnsupported},
		"a backing store of nothing": {vol("a", 1, "<target><format type='qcow2'/></target><backingStore><path>/nowhere</path><format type='raw'/></backingStore>"), verr.OperationFailed},
		"a cipher like an option":    {vol("a", 1, "<target><encryption format='luks'><secret uuid='x'/><cipher name='aes,x' size='256'/></encryption></target>"), verr.XMLError},
		"a cipher without a size":    {vol("a", 1, "<target><encryption format='luks'><secret uuid='x'/><cipher name='aes'/></encryption></target>"), verr.XMLError},
		"old encryption":             {vol("a", 1, "<target><format type='qcow2'/><encryption format='qcow'/></target>"), verr.ConfigUnsupported},
		"a mode that is none":        {vol("a", 1, "<target><permissions><mode>9</mode></permissions></target>"), verr.XMLError},
		"more than there is room":    {vol("a", 1<<60, ""), verr.SystemError},
	} {
		if _, err := b.create(&pb.CreateRequest{Xml: c.xml}); code(err) != c.want {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
	if left, err := os.ReadDir(b.dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

func TestCopyKeepsHolesAndContent(t *testing.T) {
	b := newBench(t)
	const size = 8 << 20
	from := b.must(&pb.CreateRequest{Xml: vol("from", size, "<allocation>0</allocation>")})
	f, err := os.OpenFile(from.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 4 << 20, size - 4096} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 1024), at); err != nil {
			t.Fatal(err)
		}
	}
	copied := b.must(&pb.CreateRequest{Xml: vol("to", 1, ""), FromPool: b.pool, From: from})
	a, errA := os.ReadFile(from.Path)
	c, errC := os.ReadFile(copied.Path)
	if errors.Join(errA, errC) != nil || !bytes.Equal(a, c) {
		t.Errorf("copy differs: %v", errors.Join(errA, errC))
	}
	if copied.Allocation > size/2 {
		t.Errorf("copy takes %d bytes on the disk", copied.Allocation)
	}
}

func TestUpAndDown(t *testing.T) {
	b := newBench(t)
	v := b.must(&pb.CreateRequest{Xml: vol("v", 4<<20, "")})
	client := pb.NewTransferServiceClient(b.conn)
	up, err := client.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head, tail := bytes.Repeat([]byte("h"), 100_000), bytes.Repeat([]byte("t"), 5000)
	for _, msg := range []*pb.UploadRequest{
		{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v}}, {Data: head}, {Hole: 2 << 20}, {Data: tail},
	} {
		if err := up.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := up.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var written uint64
	for {
		msg, err := up.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		written = msg.Written
	}
	if want := uint64(len(head) + 2<<20 + len(tail)); written != want {
		t.Errorf("%d bytes written, want %d", written, want)
	}
	want, err := os.ReadFile(v.Path)
	if err != nil || len(want) != 4<<20 {
		t.Fatalf("file has %d bytes, error %v", len(want), err)
	}
	for _, sparse := range []bool{false, true} {
		down, err := client.Download(t.Context(), &pb.DownloadRequest{Pool: b.pool, Volume: v, Sparse: sparse})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		holes := uint64(0)
		for {
			msg, err := down.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(append(got, msg.Data...), make([]byte, msg.Hole)...)
			holes += msg.Hole
		}
		if !bytes.Equal(got, want) || (holes > 0) != sparse {
			t.Errorf("sparse %v: %d bytes with %d in holes are not what was written", sparse, len(got), holes)
		}
	}
}

func TestUploadBeyondItsLength(t *testing.T) {
	b := newBench(t)
	v := b.must(&pb.CreateRequest{Xml: vol("v", 4096, "")})
	up, err := pb.NewTransferServiceClient(b.conn).Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*pb.UploadRequest{{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v, Length: 10}}, {Data: make([]byte, 11)}} {
		if err := up.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	for err == nil {
		_, err = up.Recv()
	}
	if code(err) != verr.OperationFailed {
		t.Errorf("ended with %v", err)
	}
}

func TestBuildAndDelete(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	p := b.define(fmt.Sprintf("<pool type='dir'><name>new</name><target><path>%s</path><permissions><mode>0750</mode></permissions></target></pool>", dir))
	drain := func(recv func() error, err error) error {
		for err == nil {
			err = recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	client := pb.NewBuildServiceClient(b.conn)
	build := func(flags uint32) error {
		s, err := client.Build(t.Context(), &pb.BuildRequest{Pool: p, Flags: flags})
		return drain(func() error { _, err := s.Recv(); return err }, err)
	}
	remove := func() error {
		s, err := client.Delete(t.Context(), &pb.DeleteRequest{Pool: p})
		return drain(func() error { _, err := s.Recv(); return err }, err)
	}
	start := func() error {
		_, err := pb.NewPoolServiceClient(b.conn).Start(t.Context(), &pb.StartRequest{Pool: p})
		return err
	}
	if err := start(); code(err) != verr.SystemError {
		t.Errorf("start without the folder: %v", err)
	}
	if err := build(buildOverwrite); code(err) != verr.InvalidArg {
		t.Errorf("overwriting a folder: %v", err)
	}
	if err := errors.Join(build(0), start()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("folder is %v, error %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := remove(); code(err) != verr.SystemError {
		t.Errorf("delete of a folder that is not empty: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "x")), remove()); err != nil {
		t.Error(err)
	}
}

func TestPoolDefinitions(t *testing.T) {
	b := newBench(t)
	client := pb.NewPoolServiceClient(b.conn)
	for _, text := range []string{
		"<pool type='dir'><name>a</name><target><path>/a/../b/</path></target></pool>",
		"<pool type='fs'><name>a</name><source><device path='/dev/sdb1'/><format type='ext4'/></source><target><path>/m</path></target></pool>",
		"<pool type='netfs'><name>a</name><source><host name='server'/><dir path='/export'/><format type='nfs'/></source><target><path>/m</path></target></pool>",
	} {
		p := b.define(text)
		if again := b.define(p.Xml); again.Xml != p.Xml {
			t.Errorf("%s came back as %s", p.Xml, again.Xml)
		}
	}
	for name, c := range map[string]struct {
		xml  string
		want verr.Code
	}{
		"no name":                  {"<pool type='dir'><target><path>/a</path></target></pool>", verr.XMLError},
		"no path":                  {"<pool type='dir'><name>a</name></pool>", verr.XMLError},
		"a relative path":          {"<pool type='dir'><name>a</name><target><path>a</path></target></pool>", verr.XMLError},
		"no device":                {"<pool type='fs'><name>a</name><target><path>/a</path></target></pool>", verr.XMLError},
		"a file system of fantasy": {"<pool type='fs'><name>a</name><source><device path='/d'/><format type='foofs'/></source><target><path>/a</path></target></pool>", verr.ConfigUnsupported},
		"a host like an option":    {"<pool type='netfs'><name>a</name><source><host name='-o'/><dir path='/x'/></source><target><path>/a</path></target></pool>", verr.XMLError},
		"no server's folder":       {"<pool type='netfs'><name>a</name><source><host name='h'/></source><target><path>/a</path></target></pool>", verr.XMLError},
		"a uuid that is none":      {"<pool type='dir'><name>a</name><uuid>x</uuid><target><path>/a</path></target></pool>", verr.XMLError},
		"another type":             {"<pool type='rbd'><name>a</name><target><path>/a</path></target></pool>", verr.ConfigUnsupported},
	} {
		if _, err := client.Validate(t.Context(), &pb.ValidateRequest{Xml: c.xml}); code(err) != c.want {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
}

// TestFileSystemOnADevice formats and mounts a loop device.
func TestFileSystemOnADevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	img := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, 32<<20)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", img).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device can be had: %s", out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	b := newBench(t)
	dir := filepath.Join(t.TempDir(), "mounted")
	p := b.define(fmt.Sprintf("<pool type='fs'><name>f</name><source><device path='%s'/><format type='ext4'/></source><target><path>%s</path></target></pool>", device, dir))
	d := &Driver{}
	ctx := t.Context()
	none := func(uint64, uint64) {}
	if err := d.Build(ctx, p, buildNoOverwrite, none); err != nil {
		t.Fatal(err)
	}
	if err := d.Build(ctx, p, buildNoOverwrite, none); code(err) != verr.OperationInvalid {
		t.Errorf("built again over a file system: %v", err)
	}
	t.Cleanup(func() { _ = d.Stop(context.WithoutCancel(ctx), p) })
	for range 2 { // both may be repeated
		if err := d.Start(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if is, err := d.Check(ctx, p); err != nil || !is {
		t.Errorf("active %v, error %v", is, err)
	}
	b.pool = p
	b.must(&pb.CreateRequest{Xml: vol("v", 1<<20, "")})
	if all, size := b.refresh(); all["v"] == nil || size.Capacity > 32<<20 {
		t.Errorf("volumes %v, size %v", all, size)
	}
	for range 2 {
		if err := d.Stop(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if is, err := d.Check(ctx, p); err != nil || is {
		t.Errorf("active %v after its stop, error %v", is, err)
	}
}

func TestMountsAreRead(t *testing.T) {
	point, source := parseMount(`36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue`)
	if point != `/mnt 2\x` || source != "/dev/root" {
		t.Errorf("mount point %q of %q", point, source)
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt\0402 rw - ext3 /dev/root rw`)
	f.Add(`\`)
	f.Fuzz(func(t *testing.T, line string) {
		if point, source := parseMount(line); len(point) > len(line) || len(source) > len(line) {
			t.Errorf("%q and %q in %q", point, source, line)
		}
	})
}
