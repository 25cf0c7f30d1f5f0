//go:build libiscsi && cgo

package direct

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/libiscsi"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/tgttest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// workplace is a pool with a disk of some size on a real target.
func workplace(t testing.TB, size int64) (*Pools, *define.Pool) {
	t.Helper()
	server := tgttest.Start(t)
	server.Target("iqn.2012-11.org.lodge.test:disks", tgttest.File(t, size))
	pool, err := define.ParsePool("<pool type='iscsi-direct'><name>p</name><source><host name='" + server.Host + "' port='" + server.Portal[len(server.Host)+1:] +
		"'/><device path='iqn.2012-11.org.lodge.test:disks'/><initiator><iqn name='iqn.2012-11.org.lodge.test:self'/></initiator></source></pool>")
	if err != nil {
		t.Fatal(err)
	}
	return &Pools{Initiator: libiscsi.Initiator{}, Timeout: func() time.Duration { return 5 * time.Second }}, pool
}

func TestNoPlaceIsLeft(t *testing.T) {
	p, pool := workplace(t, 1<<20)
	for range 3 * placesEach {
		if err := p.Start(t.Context(), pool, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Upload(t.Context(), pool, &pb.UploadBegin{Volume: &pb.Volume{Name: "unit:0:0:7"}}); err == nil {
			t.Fatal("a disk that is not there is opened")
		}
		s, err := p.Download(t.Context(), pool, &pb.DownloadRequest{Volume: &pb.Volume{Name: "unit:0:0:1"}})
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(p.places.all) != 0 {
		t.Errorf("places are taken: %v", p.places.all)
	}
}

func BenchmarkRefresh(b *testing.B) {
	p, pool := workplace(b, 1<<20)
	for b.Loop() {
		if _, err := p.Refresh(b.Context(), pool, nil, func(...*pb.Volume) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

const benchSize = 256 << 20

func BenchmarkUpload(b *testing.B) {
	p, pool := workplace(b, benchSize)
	data := make([]byte, 256<<10)
	b.SetBytes(benchSize)
	for b.Loop() {
		sink, err := p.Upload(b.Context(), pool, &pb.UploadBegin{Volume: &pb.Volume{Name: "unit:0:0:1"}})
		for n := 0; err == nil && n < benchSize; n += len(data) {
			err = sink.Write(b.Context(), data)
		}
		if err == nil {
			err = sink.Finish(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	p, pool := workplace(b, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		source, err := p.Download(b.Context(), pool, &pb.DownloadRequest{Volume: &pb.Volume{Name: "unit:0:0:1"}})
		for err == nil {
			_, _, err = source.Next(b.Context())
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		_ = source.Close()
	}
}
