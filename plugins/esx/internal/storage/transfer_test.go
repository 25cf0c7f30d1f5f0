package storage_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestContentComesBack(t *testing.T) {
	for _, vpx := range []bool{false, true} {
		b := open(t, vimtest.Options{VPX: vpx, Machines: 1})
		pool, dir := b.vmfs("ds1")
		for _, v := range []*pb.Volume{b.create(pool, "a/b.vmdk", 2*mib, ""), b.create(pool, "a/thin.vmdk", 2*mib, thin), b.create(pool, "a/c.iso", 2*mib, "")} {
			data := pattern(2*mib, 1)
			if err := b.write(pool, v, 0, data); err != nil {
				t.Fatalf("%s: %v", v.GetName(), err)
			}
			end := uint64(len(data))
			for _, part := range []struct{ offset, length uint64 }{
				{0, 0}, {0, 1}, {1, 1}, {511, 2}, {4095, 4098}, {end - 1, 1}, {end - 1, 0}, {end - 1, 100}, {end / 2, 0}, {end, 0}, {100_001, 300_003},
			} {
				got, err := b.read(pool, v, part.offset, part.length)
				want := data[part.offset:]
				if part.length > 0 {
					want = want[:min(part.length, uint64(len(want)))]
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s from %d: %d bytes (%v), want %d", v.GetName(), part.offset, len(got), err, len(want))
				}
			}
			for _, offset := range []uint64{0, 1, 513, 100_001, end - 70_001} {
				piece := pattern(70_001, byte(offset)+9)
				copy(data[offset:], piece)
				if err := b.write(pool, v, offset, piece); err != nil {
					t.Errorf("%s: write a part at %d: %v", v.GetName(), offset, err)
				}
			}
			if got, err := b.read(pool, v, 0, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s after parts were written: %d bytes, %v", v.GetName(), len(got), err)
			}
			if looked, err := b.driver.Look(b.ctx(), pool, v.GetName()); err != nil || looked.GetCapacity() != v.GetCapacity() {
				t.Errorf("%s after it was written: %v, %v", v.GetName(), looked, err)
			}
		}
		b.wantFiles(dir, "a/b-flat.vmdk", "a/b.vmdk", "a/c.iso", "a/thin-flat.vmdk", "a/thin.vmdk")
	}
}

func TestHolesAreZeros(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", 2*mib, "")
	if err := b.write(pool, v, 0, pattern(2*mib, 1)); err != nil {
		t.Fatal(err)
	}
	sink, err := b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	head, tail := pattern(100_000, 2), pattern(5000, 3)
	hole := uint64(2*mib - len(head) - len(tail))
	if err := errors.Join(sink.Write(b.ctx(), head), sink.Hole(b.ctx(), hole), sink.Write(b.ctx(), tail), sink.Finish(b.ctx())); err != nil {
		t.Fatal(err)
	}
	want := append(append(head, make([]byte, hole)...), tail...)
	source, err := b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v, Sparse: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	holes := uint64(0)
	for {
		data, n, err := source.Next(b.ctx())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got, holes = append(append(got, data...), make([]byte, n)...), holes+n
	}
	if err := source.Close(); err != nil || !bytes.Equal(got, want) || holes < mib {
		t.Errorf("%d bytes with %d in holes came back, %v", len(got), holes, err)
	}
}

func TestContentHasLimits(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	v := b.create(pool, "a/b.iso", 1000, "")
	data := pattern(1000, 1)
	if err := b.write(pool, v, 0, data); err != nil {
		t.Fatal(err)
	}
	b.wantCode("more than fits", b.write(pool, v, 0, make([]byte, 1001)), verr.InvalidArg)
	b.wantCode("at the end", b.write(pool, v, 1000, make([]byte, 1)), verr.InvalidArg)
	b.wantCode("behind the end", b.write(pool, v, 1<<63, make([]byte, 1)), verr.InvalidArg)
	sink, err := b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v, Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	b.wantCode("more than was stated", sink.Write(b.ctx(), make([]byte, 11)), verr.InvalidArg)
	b.wantCode("a longer hole", sink.Hole(b.ctx(), 1<<62), verr.InvalidArg)
	sink.Abort()
	_, err = b.read(pool, v, 1001, 0)
	b.wantCode("read behind the end", err, verr.InvalidArg)
	_, err = b.read(pool, &pb.Volume{Name: "a/none.iso"}, 0, 0)
	b.wantCode("read what is not there", err, verr.NoStorageVol)
	_, err = b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: &pb.Volume{Name: "a/none.vmdk"}})
	b.wantCode("write what is not there", err, verr.NoStorageVol)
	if err := b.write(pool, v, 0, nil); err != nil {
		t.Errorf("nothing is written: %v", err)
	}
	if got, err := b.read(pool, v, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what was refused has changed it: %v", err)
	}
	b.wantFiles(dir, "a/b.iso")
}

func TestServersThatKnowNoPartsAreReadFromTheBeginning(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.iso", mib, "")
	data := pattern(mib, 1)
	if err := b.write(pool, v, 0, data); err != nil {
		t.Fatal(err)
	}
	b.server.WithoutParts()
	if got, err := b.read(pool, v, 600_001, 100); err != nil || !bytes.Equal(got, data[600_001:600_101]) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
}

func TestSessionThatIsOverIsRenewedForContent(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, _ := b.vmfs("ds1")
	v := b.create(pool, "a/b.vmdk", mib, "")
	b.server.Unauthorized(1)
	if got, err := b.read(pool, v, 0, 0); err != nil || len(got) != mib {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	b.server.ExpireSessions()
	if _, err := b.driver.Look(b.ctx(), pool, "a/b.vmdk"); err != nil {
		t.Errorf("after all sessions have ended: %v", err)
	}
	b.server.Unauthorized(100)
	_, err := b.read(pool, v, 0, 0)
	b.wantCode("always refused", err, verr.OperationFailed, "401")
}

func TestDescriptorsThatNameOtherFilesAreNotBelieved(t *testing.T) {
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	put(t, dir, "secret/disk-flat.vmdk", []byte("secret"))
	v := b.create(pool, "a/b.vmdk", mib, "")
	good, err := os.ReadFile(filepath.Join(dir, "a/b.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"another folder":  strings.Replace(string(good), "b-flat.vmdk", "../secret/disk-flat.vmdk", 1),
		"an absolute one": strings.Replace(string(good), "b-flat.vmdk", "/secret/disk-flat.vmdk", 1),
		"no disk":         strings.Replace(string(good), "b-flat.vmdk", "b.vmx", 1),
		"a huge one":      strings.Replace(string(good), "RW 2048", "RW 9223372036854775807", 1),
		"a negative one":  strings.Replace(string(good), "RW 2048", "RW -2048", 1),
		"a delta":         strings.Replace(string(good), `createType="vmfs"`, `createType="vmfsSparse"`, 1),
		"two extents":     strings.Replace(string(good), "RW 2048", "RW 1 VMFS \"c-flat.vmdk\"\nRW 2048", 1),
		"nothing":         "",
		"a long one":      string(good) + strings.Repeat("#", 1<<17),
		"garbage":         string(pattern(5000, 7)),
	} {
		put(t, dir, "a/b.vmdk", []byte(text))
		if _, err := b.read(pool, v, 0, 0); !verr.Is(err, verr.OperationFailed) && !verr.Is(err, verr.OperationUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v}); err == nil {
			t.Errorf("%s: it can be written", what)
		}
	}
	b.wantFiles(dir, "a/b-flat.vmdk", "a/b.vmdk", "secret/disk-flat.vmdk")
}
