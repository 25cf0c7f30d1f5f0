//go:build cgo && pacific

package driver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/cephtest"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// TestADeadCephDelaysNobody stops the daemons of a Ceph: calls end in their time, those of another Ceph's pool are answered as always, and when the
// daemons go on, so does the pool.
func TestADeadCephDelaysNobody(t *testing.T) {
	b := newBench(t)
	dir, err := os.MkdirTemp("", "ceph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	second, err := cephtest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Stop)
	pools := pb.NewPoolServiceClient(b.conn)
	dead := b.define(second.Source(cephtest.Pool, cephtest.User, "u"), b.key(second.Key))
	fresh := b.define(second.Source(cephtest.Other, cephtest.User, "u"), b.key(second.Key))
	if _, err := pools.Start(t.Context(), &pb.StartRequest{Pool: dead}); err != nil {
		t.Fatal(err)
	}
	v := b.must(&pb.CreateRequest{Pool: dead, Xml: vol("v", 8<<20)})
	if err := second.Pause("mon", "osd", "mgr"); err != nil {
		t.Fatal(err)
	}
	const patience = 3 * time.Second
	for name, call := range map[string]func(context.Context) error{
		"check":              func(ctx context.Context) error { _, err := pools.Check(ctx, &pb.CheckRequest{Pool: dead}); return err },
		"check of a new one": func(ctx context.Context) error { _, err := pools.Check(ctx, &pb.CheckRequest{Pool: fresh}); return err },
		"look": func(ctx context.Context) error {
			_, err := pb.NewVolumeServiceClient(b.conn).Look(ctx, &pb.LookRequest{Pool: dead, Name: "v"})
			return err
		},
		"resize": func(ctx context.Context) error {
			_, err := pb.NewResizeServiceClient(b.conn).Resize(ctx, &pb.ResizeRequest{Pool: dead, Volume: v, Capacity: 9 << 20})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		begun := time.Now()
		if err := call(ctx); err == nil || time.Since(begun) > patience+2*time.Second {
			t.Errorf("%s took %v, error %v", name, time.Since(begun), err)
		} else {
			t.Logf("%s: %v after %v", name, err, time.Since(begun).Round(time.Millisecond))
		}
		cancel()
		begun = time.Now()
		if _, _, err := b.refresh(b.pool); err != nil || time.Since(begun) > patience {
			t.Errorf("the other pool took %v, error %v", time.Since(begun), err)
		}
	}
	if err := second.Resume("mon", "osd", "mgr"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for time.Since(begun) < 2*time.Minute {
		if _, _, err = b.refresh(dead); err == nil {
			t.Logf("back after %v", time.Since(begun).Round(time.Millisecond))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	status, statusErr := second.Run(t.Context(), "ceph", "-s")
	t.Errorf("it does not come back: %v; Ceph says: %s %v", err, status, statusErr)
}

// TestAGuestBootsFromAVolume gives QEMU what a volume says of itself, and lets it boot.
func TestAGuestBootsFromAVolume(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (make deps)")
	}
	b := newBench(t)
	v := b.must(&pb.CreateRequest{Xml: vol("boot", 4<<20)})
	const words = "booted from Ceph\n"
	sector := make([]byte, 512)
	code := sector[:0]
	for _, c := range []byte(words) {
		code = append(code, 0xb0, c, 0xe6, 0xe9) // mov al, c; out 0xe9, al
	}
	_ = append(code, 0xfa, 0xf4) // cli; hlt
	sector[510], sector[511] = 0x55, 0xaa
	if err := b.upload(v, 0, sector); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, host := v.Network, v.Network.Hosts[0]
	var pool, image string
	if _, err := fmt.Sscanf(n.Name, "rbd/%s", &image); err != nil {
		t.Fatal(err)
	}
	pool = cephtest.Pool
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-display", "none", "-nodefaults", "-debugcon", "stdio",
		"-object", "secret,id=key,format=base64,data="+b.ceph.Key,
		"-blockdev", fmt.Sprintf("driver=%s,node-name=d,pool=%s,image=%s,user=%s,key-secret=key,server.0.host=%s,server.0.port=%d",
			n.Protocol, pool, image, n.User, host.Name, host.Port),
		"-device", "ide-hd,drive=d,bootindex=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		found = bytes.HasSuffix(append(lines.Bytes(), '\n'), []byte(words))
	}
	cancel()
	_ = cmd.Wait() // it was killed
	if !found {
		t.Errorf("the guest did not boot: %s", said.String())
	}
}

// BenchmarkRefresh950 refreshes a pool of 950 images, and compares with opening each image, one after another and eight at a time.
func BenchmarkRefresh950(b *testing.B) {
	const images = 950
	bench := newBench(b)
	u, err := librados.Dial(ceph.Options{Monitors: []string{fmt.Sprint("127.0.0.1:", bench.ceph.Port)}, User: cephtest.User, Key: bench.ceph.Key, Pool: cephtest.Pool, Timeout: 30 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(u.Close)
	var all errgroup.Group
	all.SetLimit(8)
	for n := range images {
		all.Go(func() error { return u.Create(fmt.Sprint("image-", n), 10<<30) })
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		all := errgroup.Group{}
		all.SetLimit(8)
		for n := range images {
			all.Go(func() error { return u.Remove(fmt.Sprint("image-", n)) })
		}
		if err := all.Wait(); err != nil {
			b.Error(err)
		}
	})
	b.Run("refresh", func(b *testing.B) {
		for b.Loop() {
			if all, _, err := bench.refresh(bench.pool); err != nil || len(all) != images {
				b.Fatalf("%d volumes, error %v", len(all), err)
			}
		}
	})
	for _, parallel := range []int{1, 8} {
		b.Run(fmt.Sprintf("open %d at a time", parallel), func(b *testing.B) {
			for b.Loop() {
				var all errgroup.Group
				all.SetLimit(parallel)
				for n := range images {
					all.Go(func() error {
						image, err := u.Open(fmt.Sprint("image-", n), true)
						if err != nil {
							return err
						}
						defer func() { _ = image.Close() }()
						size, err := image.Size()
						if err == nil {
							_, err = image.Extents(0, size, false)
						}
						return err
					})
				}
				if err := all.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
