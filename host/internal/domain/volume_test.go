package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// shelf has the volumes of one pool, "shelf", and secrets.
type shelf struct {
	kind    string
	volumes map[string]*storagev1.Volume
	values  map[catalog.SecretRef]string
	asked   int
}

func (s *shelf) Resolve(_ context.Context, pool, volume string) (string, *storagev1.Volume, error) {
	s.asked++
	switch v := s.volumes[volume]; {
	case pool != "shelf":
		return "", nil, verr.New(verr.NoStoragePool, "no pool %s", pool)
	case v == nil:
		return "", nil, verr.New(verr.NoStorageVol, "no volume %s", volume)
	default:
		return s.kind, v, nil
	}
}

func (s *shelf) Values(_ context.Context, refs []catalog.SecretRef) ([]*storagev1.Secret, error) {
	var out []*storagev1.Secret
	for _, r := range refs {
		value, ok := s.values[r]
		if !ok {
			return nil, verr.New(verr.NoSecret, "no secret %v", r)
		}
		out = append(out, &storagev1.Secret{Value: []byte(value)})
	}
	return out, nil
}

func (s *shelf) file(name, path string) {
	s.volumes[name] = &storagev1.Volume{Name: name, Type: storagev1.VolumeType_VOLUME_TYPE_FILE, Path: path}
}

func volumeDisk(target, volume, more string) string {
	return fmt.Sprintf("<disk type='volume' device='disk'><source pool='shelf' volume='%s'/><target dev='%s' bus='virtio'/>%s</disk>", volume, target, more)
}

// with defines a guest with one disk.
func (b *bench) with(name, disk string) *Domain {
	b.t.Helper()
	d, err := b.Define(b.t.Context(), fmt.Sprintf("<domain type='test'><name>%s</name><memory>1024</memory><os><type>hvm</type></os><devices>%s</devices></domain>", name, disk), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func texts(disks []*pb.Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(d)), " "))
	}
	return strings.Join(out, "; ")
}

// What a volume stands for is found once for a life of a guest: the lock, the driver that comes back and the core that comes back go by it,
// whatever the pool says meanwhile, and the definition keeps the names.
func TestVolumeOfALivingGuestStaysWhatItIs(t *testing.T) {
	b := newBench(t)
	b.shelf.file("v", "/shelf/v")
	d := b.with("one", volumeDisk("vda", "v", ""))
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := b.locks.locked(); !slices.Equal(got, []string{"/shelf/v"}) {
		t.Errorf("locked %v", got)
	}
	const told = `target:"vda" path:"/shelf/v" pool:"shelf" volume:"v"`
	if got := texts(b.driver.disks); got != told {
		t.Errorf("the driver got %s", got)
	}
	b.shelf.file("v", "/elsewhere/v")
	b.restart()
	if got := texts(b.driver.volumes); got != told {
		t.Errorf("a driver that comes back got %s", got)
	}
	d, err := b.ByName("one")
	if err != nil {
		t.Fatal(err)
	}
	if k, _, err := d.Disk(t.Context(), "vda"); err != nil || k.Source.File == nil || k.Source.File.File != "/shelf/v" {
		t.Errorf("disk %+v, %v", k, err)
	}
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<source pool='shelf' volume='v'/>") || strings.Contains(xml, "/shelf/v") {
		t.Errorf("%v\n%s", err, xml)
	}
	other := b.with("two", volumeDisk("vda", "v", ""))
	b.shelf.file("v", "/shelf/v")
	if err := other.Start(t.Context(), 0); !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("second guest on the volume: %v", err)
	}
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(t.Context(), 0); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
}

func TestVolumesAreAttachedAndDetached(t *testing.T) {
	b := newBench(t)
	b.shelf.file("v", "/shelf/v")
	d := b.with("one", "")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	disk := volumeDisk("vdb", "v", "")
	b.driver.when("attach", func() error { return errors.New("no") })
	if err := d.AttachDevice(t.Context(), disk, affectLive); err == nil || len(b.locks.locked()) != 0 {
		t.Errorf("a refused volume: %v, locked %v", err, b.locks.locked())
	}
	// The driver dies right after it has done it: the core learns by the live definition that the volume is there.
	b.driver.when("attach.done", func() error { return died(t) })
	if err := d.AttachDevice(t.Context(), disk, affectLive); err != nil {
		t.Fatal(err)
	}
	if got := texts(b.driver.volumes); got != `target:"vdb" path:"/shelf/v" pool:"shelf" volume:"v"` {
		t.Errorf("the driver that had died got %s", got)
	}
	if got := b.locks.locked(); !slices.Equal(got, []string{"/shelf/v"}) {
		t.Errorf("locked %v", got)
	}
	if err := d.DetachDevice(t.Context(), disk, affectLive); err != nil {
		t.Fatal(err)
	}
	if got := b.locks.locked(); len(got) != 0 || len(d.state.Load().volumes) != 0 {
		t.Errorf("locked %v, volumes %v after the disk has gone", got, d.state.Load().volumes)
	}
}

func TestMediaAreChangedForVolumes(t *testing.T) {
	b := newBench(t)
	b.shelf.file("v", "/shelf/v")
	b.shelf.file("w", "/shelf/w")
	medium := func(volume string) string {
		return fmt.Sprintf("<disk type='volume' device='cdrom'><source pool='shelf' volume='%s'/><target dev='hdc' bus='ide'/></disk>", volume)
	}
	d := b.with("one", medium("v"))
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.UpdateDevice(t.Context(), medium("w"), affectLive); err != nil {
		t.Fatal(err)
	}
	if got := texts(b.driver.disks); got != `target:"hdc" path:"/shelf/w" pool:"shelf" volume:"w"` || len(d.state.Load().volumes) != 1 {
		t.Errorf("%s, volumes %v", got, d.state.Load().volumes)
	}
	asked := b.shelf.asked
	if err := d.UpdateDevice(t.Context(), medium("w"), affectLive); err != nil || b.shelf.asked != asked {
		t.Errorf("the medium that is in: %v, asked %d times", err, b.shelf.asked-asked)
	}
}

// Values of secrets reach the driver, in the call that opens the image, and no file of the core.
func TestSecretsOfDisksAreBroughtAlong(t *testing.T) {
	b := newBench(t)
	const id = "5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d"
	b.shelf.kind = "iscsi-direct"
	b.shelf.values[catalog.SecretRef{UUID: id, Type: "volume"}] = "open sesame"
	b.shelf.values[catalog.SecretRef{Usage: "target", Type: "iscsi"}] = "chap"
	b.shelf.volumes["v"] = &storagev1.Volume{Type: storagev1.VolumeType_VOLUME_TYPE_NETWORK, Network: &storagev1.NetworkSource{
		Protocol: "iscsi", Name: "iqn/1", Hosts: []*storagev1.Host{{Name: "::1", Port: 3260}}, User: "u",
		Secret: &storagev1.SecretRef{Usage: "target", UsageType: "iscsi"},
	}}
	d := b.with("one", volumeDisk("vda", "v", "<encryption format='luks'><secret type='passphrase' uuid='"+id+"'/></encryption>"))
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	got := b.driver.disks
	if len(got) != 1 || len(got[0].Secrets) != 2 || string(got[0].Secrets[0].Value) != "open sesame" || string(got[0].Secrets[1].Value) != "chap" {
		t.Fatalf("the driver got %v", got)
	}
	if n := got[0].Network; n.GetName() != "iqn/1" || n.GetUser() != "u" || n.GetHosts()[0].GetPort() != 3260 || n.GetSecret().GetUsage() != "target" {
		t.Errorf("the driver got %v", n)
	}
	if len(b.locks.locked()) != 0 {
		t.Errorf("locked %v", b.locks.locked())
	}
	b.restart()
	if v := b.driver.volumes; len(v) != 1 || len(v[0].Secrets) != 0 || v[0].GetNetwork().GetSecret().GetUsage() != "target" {
		t.Errorf("a driver that comes back got %v", v)
	}
	data, err := os.ReadFile(b.path)
	if err != nil || strings.Contains(string(data), "open sesame") || strings.Contains(string(data), "chap") {
		t.Errorf("a secret is in the database, %v", err)
	}
}

func TestDisksThatCannotBeOpened(t *testing.T) {
	b := newBench(t)
	b.shelf.kind = "dir"
	b.shelf.file("v", "/shelf/v")
	b.shelf.volumes["folder"] = &storagev1.Volume{Type: storagev1.VolumeType_VOLUME_TYPE_DIR, Path: "/shelf/folder"}
	for name, c := range map[string]struct {
		disk string
		want verr.Code
	}{
		"a pool that is not there":   {strings.Replace(volumeDisk("vda", "v", ""), "shelf", "other", 1), verr.NoStoragePool},
		"a volume that is not there": {volumeDisk("vda", "w", ""), verr.NoStorageVol},
		"a folder":                   {volumeDisk("vda", "folder", ""), verr.ConfigUnsupported},
		"a mode without iscsi":       {strings.Replace(volumeDisk("vda", "v", ""), "volume='v'", "volume='v' mode='direct'", 1), verr.XMLError},
		"a secret that is not there": {volumeDisk("vda", "v", "<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"), verr.NoSecret},
	} {
		d := b.with("guest", c.disk)
		if err := d.Start(t.Context(), 0); !verr.Is(err, c.want) || d.View().Active() || len(b.locks.locked()) != 0 {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
		if err := d.Undefine(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
}
