package storagedriver

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func madeFoundRemoved(b *bench) {
	b.need("VolumeService")
	v := b.create()
	if v.GetCapacity() < b.factory.Capacity {
		b.Errorf("the volume has %d bytes, %d were wanted", v.GetCapacity(), b.factory.Capacity)
	}
	all, _ := b.refresh()
	looked, err := b.look(v.GetName())
	b.must("look", err)
	for where, w := range map[string]*pb.Volume{"look": looked, "refresh": all[v.GetName()]} {
		if w.GetName() != v.GetName() || w.GetKey() != v.GetKey() || w.GetPath() != v.GetPath() || w.GetType() != v.GetType() || w.GetCapacity() != v.GetCapacity() ||
			w.GetFormat() != v.GetFormat() {
			b.Errorf("%s tells %v of the volume that was made as %v", where, w, v)
		}
	}
	b.must("remove", b.remove(v))
	b.wantNames("after it was removed")
	_, err = b.look(v.GetName())
	b.wantCode("look at a volume that is gone", err, verr.NoStorageVol)
	b.wantCode("remove a volume that is gone", b.remove(v), verr.NoStorageVol)
}

func nameIsGivenOnce(b *bench) {
	b.need("VolumeService")
	v := b.create()
	data := pattern(4096, 7)
	if b.has("TransferService") {
		b.write(v, data)
	}
	_, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(v.GetName(), b.factory.Capacity)})
	b.wantCode("a second volume of a name", err, verr.StorageVolExist)
	b.wantNames("after that", v.GetName())
	if b.has("TransferService") {
		b.wantContent("after that", v, data)
	}
}

func oneOfMany(b *bench) {
	b.need("VolumeService")
	name := b.name()
	var mu sync.Mutex
	var all sync.WaitGroup
	made := 0
	for range 8 {
		all.Go(func() {
			_, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(name, b.factory.Capacity)})
			if err != nil {
				b.wantCode("one of many", err, verr.StorageVolExist, verr.OperationFailed, verr.SystemError)
				return
			}
			mu.Lock()
			made++
			mu.Unlock()
		})
	}
	all.Wait()
	if made != 1 {
		b.Errorf("%d of 8 have made a volume of one name", made)
	}
	b.wantNames("after that", name)
}

// odd are names that a careless driver takes for something else.
var odd = []string{
	"-h", "--help", "a b", "a&amp;b", "a'b", "a;b", "a$b", "a`b", "a%20b", "ä", "a:b", "a,b", "a@b", "#", "~", "a*b", strings.Repeat("n", 255),
}

func oddNames(b *bench) {
	b.need("VolumeService")
	plain := strings.NewReplacer("&amp;", "&")
	for _, name := range odd {
		v, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(name, b.factory.Capacity)})
		name = plain.Replace(name)
		if err != nil {
			b.wantCode("a volume of the name "+name, err, verr.XMLError, verr.ConfigUnsupported, verr.InvalidArg, verr.OperationFailed)
			b.wantNames("after the name " + name + " was refused")
			continue
		}
		if v.GetName() != name {
			b.Errorf("a volume that should be %q is %q", name, v.GetName())
		}
		b.wantNames("with an odd name", name)
		b.must("remove "+name, b.remove(v))
		b.wantNames("after the odd name")
	}
}

func namesStayInside(b *bench) {
	b.need("VolumeService")
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/x", "a&#10;b", strings.Repeat("n", 5000)} {
		_, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(name, b.factory.Capacity)})
		b.wantCode("a volume of the name "+name, err, verr.XMLError, verr.ConfigUnsupported, verr.InvalidArg, verr.OperationFailed)
		if name == "" {
			continue
		}
		lie := &pb.Volume{Name: name, Key: name, Path: name, Type: pb.VolumeType_VOLUME_TYPE_FILE, Capacity: 1}
		if b.remove(lie) == nil {
			b.Errorf("a volume of the name %q is removed", name)
		}
		if _, err := b.look(name); err == nil {
			b.Errorf("a volume of the name %q is found", name)
		}
	}
	b.wantNames("after that")
}

func refusedLeavesNothing(b *bench) {
	b.need("VolumeService")
	_, room := b.refresh()
	name := b.name()
	for what, text := range map[string]string{
		"no XML":                  "volume",
		"another element":         "<pool/>",
		"no size":                 "<volume><name>" + name + "</name></volume>",
		"a size that is none":     strings.Replace(b.definition(name, 1), "<capacity>1<", "<capacity>x<", 1),
		"a negative size":         strings.Replace(b.definition(name, 1), "<capacity>1<", "<capacity>-1<", 1),
		"an unknown unit":         strings.Replace(b.definition(name, 1), "<capacity>", "<capacity unit='stone'>", 1),
		"a size beyond numbers":   strings.Replace(b.definition(name, 1), "<capacity>1<", "<capacity unit='EiB'>99<", 1),
		"a format of fantasy":     "<volume><name>" + name + "</name><capacity>4096</capacity><target><format type='fantasy'/></target></volume>",
		"encryption of fantasy":   "<volume><name>" + name + "</name><capacity>4096</capacity><target><encryption format='fantasy'/></target></volume>",
		"more than there is room": strings.Replace(b.definition(name, 1<<60), "</capacity>", "</capacity><allocation>1152921504606846976</allocation>", 1),
	} {
		if what == "more than there is room" && b.factory.Thin {
			continue
		}
		if what == "a format of fantasy" && !b.formats() {
			continue
		}
		if _, err := b.try(b.ctx(), &pb.CreateRequest{Xml: text}); err == nil {
			b.Errorf("%s: it is not refused", what)
		}
		b.wantNames("after " + what)
	}
	if _, now := b.refresh(); now.GetAllocation() > room.GetAllocation()+b.factory.Capacity {
		b.Errorf("%d bytes are in use after nothing was made, before there were %d", now.GetAllocation(), room.GetAllocation())
	}
}

// formats reports whether volumes of this type of pool have formats.
func (b *bench) formats() bool {
	rsp, err := b.pools.Capabilities(b.ctx(), &pb.CapabilitiesRequest{})
	b.must("capabilities", err)
	return slices.ContainsFunc(rsp.GetTypes(), func(t *pb.PoolType) bool {
		return t.GetName() == b.pool.GetType() && len(t.GetVolumeFormats()) > 0
	})
}

func madeFromAnother(b *bench) {
	b.need("VolumeService", "TransferService")
	from := b.create()
	data := pattern(b.factory.Capacity/2+4096, 3)
	b.write(from, data)
	from, err := b.look(from.GetName())
	b.must("look", err)
	name := b.name()
	v, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(name, b.factory.Capacity), FromPool: b.pool, From: from})
	if err != nil && slices.Contains([]verr.Code{verr.NoSupport, verr.ConfigUnsupported, verr.OperationUnsupported}, verr.From(err).Code) {
		b.wantNames("after a copy was refused", from.GetName())
		b.Skipf("the driver does not copy volumes: %v", err)
	}
	b.must("create from another volume", err)
	b.wantContent("the copy", v, data)
	other := pattern(8192, 9)
	b.write(v, other)
	b.wantContent("the original, after the copy was written to", from, data)
	b.wantNames("after that", from.GetName(), name)
}

func givenUpLeavesNothing(b *bench) {
	b.need("VolumeService")
	from := b.create()
	if b.has("TransferService") {
		b.write(from, pattern(b.factory.Capacity, 5))
	}
	for wait := time.Duration(0); wait < 40*time.Millisecond; wait += 4 * time.Millisecond {
		ctx, cancel := context.WithCancel(b.ctx())
		time.AfterFunc(wait, cancel)
		name := b.factory.Name(b.names)
		_, err := b.try(ctx, &pb.CreateRequest{Xml: b.definition(name, b.factory.Capacity), FromPool: b.pool, From: from})
		cancel()
		// The driver may have been ready when it was told: then the volume is there and whole.
		looked, lookErr := b.settled(name)
		switch {
		case err == nil && lookErr != nil:
			b.Errorf("a volume that was made is not there: %v", lookErr)
		case lookErr == nil:
			if b.has("TransferService") {
				b.wantContent("a copy that was ready when it was given up", looked, pattern(b.factory.Capacity, 5))
			}
			b.must("remove", b.remove(looked))
		}
	}
	b.wantNames("after volumes were given up", from.GetName())
}

// settled looks at a volume once whatever was under way for it has come to its end.
func (b *bench) settled(name string) (*pb.Volume, error) {
	var v *pb.Volume
	var err error
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		if v, err = b.look(name); err == nil {
			return v, nil
		}
	}
	return v, err
}

func growsAndShrinks(b *bench) {
	b.need("VolumeService", "ResizeService")
	const shrink = 4
	v := b.create()
	data := pattern(4096, 2)
	if b.has("TransferService") {
		b.write(v, data)
	}
	for _, step := range []struct {
		capacity uint64
		flags    uint32
	}{{2 * b.factory.Capacity, 0}, {2 * b.factory.Capacity, 0}, {b.factory.Capacity, shrink}} {
		rsp, err := b.resizer.Resize(b.ctx(), &pb.ResizeRequest{Pool: b.pool, Volume: v, Capacity: step.capacity, Flags: step.flags})
		if err != nil && step.flags == shrink && slices.Contains([]verr.Code{verr.NoSupport, verr.ConfigUnsupported, verr.OperationUnsupported}, verr.From(err).Code) {
			break
		}
		b.must("resize", err)
		looked, err := b.look(v.GetName())
		b.must("look", err)
		if got := rsp.GetVolume().GetCapacity(); got < step.capacity || got >= step.capacity+b.factory.Capacity || looked.GetCapacity() != got {
			b.Errorf("resized to %d bytes the volume has %d, and is told to have %d", step.capacity, got, looked.GetCapacity())
		}
		v = looked
	}
	if b.has("TransferService") {
		b.wantContent("after that", v, data)
	}
	gone := &pb.Volume{Name: "gone", Key: "gone", Path: v.GetPath() + "-gone", Type: v.GetType(), Format: v.GetFormat()}
	_, err := b.resizer.Resize(b.ctx(), &pb.ResizeRequest{Pool: b.pool, Volume: gone, Capacity: b.factory.Capacity})
	if err == nil {
		b.Error("a volume that is not there is resized")
	}
	b.wantNames("after that", v.GetName())
}
