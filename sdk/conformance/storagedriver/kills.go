package storagedriver

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// longest is up to when a driver is killed after it was asked for something.
const longest = 60 * time.Millisecond

// work is one thing that a driver is asked for, and is killed over.
type work struct {
	name string
	// do asks for it; its error is no fault.
	do func(context.Context) error
	// judge looks at what has become of it: whether it is as before or as asked. done says that the driver said so.
	judge func(done bool)
}

// killed kills the driver's process at random moments of everything that it does.
func killed(b *bench) {
	if b.factory.Command == nil {
		b.Skip("the factory cannot make the plugin's process")
	}
	b.core.Relaunch(b.T, b.factory.Config, b.factory.Command)
	b.connect()
	b.start()
	k := &killing{bench: b, content: map[string][]byte{}}
	if b.has("VolumeService") {
		k.base = b.create()
	} else {
		k.base = b.some()
	}
	if b.has("TransferService") {
		k.content[k.base.GetName()] = pattern(k.base.GetCapacity(), 1)
		b.write(k.base, k.content[k.base.GetName()])
	}
	seed := rand.Uint64()
	b.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := k.works()
	for n := range b.factory.Rounds {
		w := all[n%len(all)]()
		ctx, cancel := context.WithCancel(b.ctx())
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { err = w.do(ctx) })
		time.Sleep(time.Duration(random.Int64N(int64(longest))))
		b.core.Kill()
		wg.Wait()
		cancel()
		b.core.Relaunch(b.T, b.factory.Config, b.factory.Command)
		b.connect()
		rsp, checkErr := b.pools.Check(b.ctx(), &pb.CheckRequest{Pool: b.pool})
		b.must("check after "+w.name, checkErr)
		if !rsp.GetActive() {
			b.start()
		}
		k.judgeOthers(w.name)
		w.judge(err == nil)
		if b.Failed() {
			b.Fatalf("round %d: the driver was killed during: %s", n, w.name)
		}
	}
}

// killing is what is known of the volumes while the driver is killed.
type killing struct {
	*bench
	base *pb.Volume
	// content are the volumes that must be there, with what they have.
	content map[string][]byte
	// open is the volume that the work is about, which is judged by it.
	open string
}

// judgeOthers checks that nothing has become of the volumes that the work was not about.
func (k *killing) judgeOthers(after string) {
	k.Helper()
	all, _ := k.refresh()
	for name := range k.content {
		if all[name] == nil {
			k.Errorf("volume %q is gone after %s", name, after)
		}
	}
	for name := range all {
		if _, known := k.content[name]; !known && name != k.open && name != k.base.GetName() && !slices.Contains(k.def.Volumes, name) {
			k.Errorf("volume %q is there after %s, and nobody has asked for it", name, after)
		}
	}
	if data, ok := k.content[k.base.GetName()]; ok && k.open != k.base.GetName() {
		got, _, err := k.read(&pb.DownloadRequest{Volume: k.base})
		if err != nil || !bytes.Equal(got, data) {
			k.Errorf("the content of volume %q has changed after %s, error %v", k.base.GetName(), after, err)
		}
	}
}

// works are makers of all that the driver can do.
func (k *killing) works() []func() work {
	all := []func() work{k.refreshing}
	if k.has("VolumeService") {
		all = append(all, k.creating, k.copying, k.removing)
	}
	if k.has("VolumeService") && k.has("ResizeService") {
		all = append(all, k.resizing)
	}
	if k.has("TransferService") {
		all = append(all, k.uploading)
	}
	if k.has("TransferService") && k.has("WipeService") {
		all = append(all, k.wiping)
	}
	return all
}

func (k *killing) refreshing() work {
	k.open = ""
	return work{"refresh", func(ctx context.Context) error {
		s, err := k.pools.Refresh(ctx, &pb.RefreshRequest{Pool: k.pool})
		return each(stream[pb.RefreshResponse](s), err, func(*pb.RefreshResponse) {})
	}, func(bool) {}}
}

// making makes a volume and removes it again, if it is there.
func (k *killing) making(what string, from *pb.Volume) work {
	name := k.factory.Name(k.names)
	k.open = name
	return work{what, func(ctx context.Context) error {
		req := &pb.CreateRequest{Xml: k.definition(name, k.factory.Capacity), From: from}
		if from != nil {
			req.FromPool = k.pool
		}
		_, err := k.try(ctx, req)
		return err
	}, func(done bool) {
		v, err := k.look(name)
		if err != nil {
			if done {
				k.Errorf("%s: the driver said it is made, and it is not there: %v", what, err)
			}
			return
		}
		if v.GetCapacity() < k.factory.Capacity {
			k.Errorf("%s: the volume has %d bytes, %d were wanted", what, v.GetCapacity(), k.factory.Capacity)
		}
		if want := k.content[k.base.GetName()]; from != nil && want != nil {
			if got, _, err := k.read(&pb.DownloadRequest{Volume: v, Length: uint64(len(want))}); err != nil || !bytes.Equal(got, want) {
				k.Errorf("%s: the copy is half made, error %v", what, err)
			}
		}
		k.must("remove "+name, k.remove(v))
	}}
}

func (k *killing) creating() work { return k.making("create", nil) }

func (k *killing) copying() work { return k.making("create from another volume", k.base) }

func (k *killing) removing() work {
	v, err := k.try(k.ctx(), &pb.CreateRequest{Xml: k.definition(k.factory.Name(k.names), k.factory.Capacity)})
	k.must("create", err)
	k.open = v.GetName()
	return work{"remove", func(context.Context) error { return k.remove(v) }, func(done bool) {
		_, err := k.look(v.GetName())
		switch {
		case done && err == nil:
			k.Error("remove: the driver said that it is gone, and it is there")
		case err == nil:
			k.must("remove once more", k.remove(v))
		}
	}}
}

func (k *killing) resizing() work {
	v, err := k.try(k.ctx(), &pb.CreateRequest{Xml: k.definition(k.factory.Name(k.names), k.factory.Capacity)})
	k.must("create", err)
	k.open = v.GetName()
	return work{"resize", func(ctx context.Context) error {
		_, err := k.resizer.Resize(ctx, &pb.ResizeRequest{Pool: k.pool, Volume: v, Capacity: 2 * v.GetCapacity()})
		return err
	}, func(done bool) {
		now, err := k.look(v.GetName())
		k.must("look after resize", err)
		if c := now.GetCapacity(); c != v.GetCapacity() && c != 2*v.GetCapacity() || done && c == v.GetCapacity() {
			k.Errorf("resize: the volume has %d bytes, it had %d and should get twice that; the driver said it is done: %v", c, v.GetCapacity(), done)
		}
		k.must("remove", k.remove(now))
	}}
}

// uploading writes other content to the base. What is broken off leaves what was written: each byte is the old or the new one.
func (k *killing) uploading() work {
	k.open = k.base.GetName()
	before := k.content[k.open]
	after := pattern(uint64(len(before)), byte(rand.Uint32()))
	return work{"upload", func(ctx context.Context) error {
		var pieces []*pb.UploadRequest
		for at := 0; at < len(after); at += maxPiece {
			pieces = append(pieces, &pb.UploadRequest{Data: after[at:min(at+maxPiece, len(after))]})
		}
		_, err := k.upload(ctx, &pb.UploadBegin{Volume: k.base}, pieces...)
		return err
	}, func(done bool) { k.judgeContent("upload", done, before, after) }}
}

func (k *killing) wiping() work {
	k.open = k.base.GetName()
	before := k.content[k.open]
	return work{"wipe", func(ctx context.Context) error {
		return drain(k.wiper.Wipe(ctx, &pb.WipeRequest{Pool: k.pool, Volume: k.base}))
	}, func(done bool) { k.judgeContent("wipe", done, before, make([]byte, len(before))) }}
}

// judgeContent checks that each byte of the base is the old or the new one.
func (k *killing) judgeContent(what string, done bool, before, after []byte) {
	k.Helper()
	got, _, err := k.read(&pb.DownloadRequest{Volume: k.base})
	k.must("download after "+what, err)
	if len(got) != len(after) {
		k.Fatalf("%s: the volume has %d bytes, it had %d", what, len(got), len(before))
	}
	for i := range got {
		if got[i] != after[i] && (done || got[i] != before[i]) {
			k.Fatalf("%s: byte %d is neither as before nor as asked; the driver said it is done: %v", what, i, done)
		}
	}
	k.content[k.base.GetName()] = got
	if bytes.Count(got, []byte{0}) == len(got) {
		k.content[k.base.GetName()] = pattern(uint64(len(got)), byte(rand.Uint32()))
		k.write(k.base, k.content[k.base.GetName()])
	}
}
