package storagedriver

import (
	"bytes"
	"context"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func contentComesBack(b *bench) {
	b.need("TransferService")
	v := b.some()
	data := pattern(v.GetCapacity(), 1)
	b.write(v, data)
	b.wantContent("after all of it was written", v, data)
	// Two pieces with a hole between them, over what was there.
	head, tail := pattern(100_000, 2), pattern(5000, 3)
	hole := v.GetCapacity() - uint64(len(head)+len(tail))
	written, err := b.upload(b.ctx(), &pb.UploadBegin{Volume: v}, &pb.UploadRequest{Data: head}, &pb.UploadRequest{Hole: hole}, &pb.UploadRequest{Data: tail})
	b.must("upload with a hole", err)
	if written != v.GetCapacity() {
		b.Errorf("upload tells of %d bytes, %d were sent with the hole", written, v.GetCapacity())
	}
	want := append(append(head, make([]byte, hole)...), tail...)
	for _, sparse := range []bool{false, true} {
		got, holes, err := b.read(&pb.DownloadRequest{Volume: v, Sparse: sparse})
		b.must("download", err)
		if !bytes.Equal(got, want) {
			b.Errorf("sparse %v: %d bytes with %d in holes are not the %d that were written", sparse, len(got), holes, len(want))
		}
		if !sparse && holes > 0 {
			b.Errorf("%d bytes are told as holes, nobody asked for them", holes)
		}
	}
}

func partsComeBack(b *bench) {
	b.need("TransferService")
	v := b.some()
	data := pattern(v.GetCapacity(), 4)
	b.write(v, data)
	end := v.GetCapacity()
	for _, part := range []struct{ offset, length uint64 }{
		{0, 1}, {1, 1}, {511, 2}, {4095, 4098}, {end - 1, 1}, {end - 1, 0}, {end - 1, 100}, {end / 2, 0}, {end, 0}, {100_001, 300_003},
	} {
		got, _, err := b.read(&pb.DownloadRequest{Volume: v, Offset: part.offset, Length: part.length})
		b.must("download a part", err)
		want := data[part.offset:]
		if part.length > 0 {
			want = want[:min(part.length, uint64(len(want)))]
		}
		if !bytes.Equal(got, want) {
			b.Errorf("from %d %d bytes came, which are not the %d that are there", part.offset, len(got), len(want))
		}
	}
	for _, offset := range []uint64{1, 513, 100_001} {
		piece := pattern(70_001, byte(offset))
		copy(data[offset:], piece)
		_, err := b.upload(b.ctx(), &pb.UploadBegin{Volume: v, Offset: offset, Length: uint64(len(piece))}, &pb.UploadRequest{Data: piece})
		b.must("upload a part", err)
	}
	b.wantContent("after parts were written", v, data)
}

func contentHasLimits(b *bench) {
	b.need("TransferService")
	v := b.some()
	data := pattern(v.GetCapacity(), 6)
	b.write(v, data)
	_, err := b.upload(b.ctx(), &pb.UploadBegin{Volume: v, Length: 10}, &pb.UploadRequest{Data: make([]byte, 11)})
	if err == nil {
		b.Error("more is written than was stated")
	}
	_, _, err = b.read(&pb.DownloadRequest{Volume: v, Offset: v.GetCapacity() + 1})
	if err == nil {
		b.Error("bytes behind the end are read")
	}
	if _, err := b.upload(b.ctx(), &pb.UploadBegin{Volume: v, Offset: 1 << 63}, &pb.UploadRequest{Data: make([]byte, 1)}); err == nil {
		b.Error("a byte is written at an offset that no storage has")
	}
	got, _, err := b.read(&pb.DownloadRequest{Volume: v, Offset: 11})
	if err != nil || !bytes.Equal(got, data[11:]) {
		b.Errorf("what was refused has changed the volume, error %v", err)
	}
	gone := &pb.Volume{Name: "gone", Key: "gone", Path: v.GetPath() + "-gone", Type: v.GetType(), Format: v.GetFormat(), Capacity: v.GetCapacity()}
	_, _, err = b.read(&pb.DownloadRequest{Volume: gone})
	b.wantCode("download of a volume that is not there", err, verr.NoStorageVol)
	_, err = b.upload(b.ctx(), &pb.UploadBegin{Volume: gone}, &pb.UploadRequest{Data: []byte("x")})
	b.wantCode("upload to a volume that is not there", err, verr.NoStorageVol)
}

func lostClient(b *bench) {
	b.need("TransferService")
	v := b.some()
	data := pattern(v.GetCapacity(), 8)
	b.write(v, data)
	for range 8 {
		ctx, cancel := context.WithCancel(b.ctx())
		up, err := b.transfer.Upload(ctx)
		b.must("upload", err)
		b.must("begin upload", up.Send(&pb.UploadRequest{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v}}))
		if _, err := up.Recv(); err != nil {
			b.Fatalf("begin upload: %v", err)
		}
		b.must("send", up.Send(&pb.UploadRequest{Data: data[:4096]}))
		cancel()
		ctx, cancel = context.WithCancel(b.ctx())
		down, err := b.transfer.Download(ctx, &pb.DownloadRequest{Pool: b.pool, Volume: v})
		b.must("download", err)
		if _, err := down.Recv(); err != nil {
			b.Fatalf("begin download: %v", err)
		}
		cancel()
	}
	b.wantContent("after clients were lost", v, data)
	if b.has("VolumeService") {
		// Nothing holds it.
		var err error
		for range 50 {
			if err = b.remove(v); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		b.must("remove after clients were lost", err)
		b.wantNames("after that")
	}
}

func wipedIsEmpty(b *bench) {
	b.need("TransferService", "WipeService")
	v := b.some()
	b.write(v, pattern(v.GetCapacity(), 1))
	b.must("wipe", drain(b.wiper.Wipe(b.ctx(), &pb.WipeRequest{Pool: b.pool, Volume: v})))
	b.wantContent("after it was wiped", v, nil)
	for _, algorithm := range []uint32{1, 9, 4711} {
		err := drain(b.wiper.Wipe(b.ctx(), &pb.WipeRequest{Pool: b.pool, Volume: v, Algorithm: algorithm}))
		if algorithm == 4711 && err == nil {
			b.Error("an algorithm that is none is used")
		}
	}
	got, _, err := b.read(&pb.DownloadRequest{Volume: v})
	b.must("download", err)
	if uint64(len(got)) != v.GetCapacity() {
		b.Errorf("the volume has %d bytes after it was wiped, before it had %d", len(got), v.GetCapacity())
	}
}
