package inventory

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of a feed.
const (
	// batchBytes is about how many bytes of objects one message has.
	batchBytes = 512 << 10
	// backlog is how many messages a follower may be behind before it has to begin anew.
	backlog = 4096
)

// Feed is the picture of a connection and tells whoever follows it what changes. Its methods are safe concurrently; objects that were put
// into it must not be changed any more.
type Feed struct {
	mu        sync.Mutex // guards all below; never held across a call
	seq       uint64
	view      View
	synced    bool
	stale     *pb.Stale
	changed   chan struct{} // closed and replaced by each change
	followers map[*Follower]struct{}
}

// View is the picture at one moment. Its maps must not be changed, and are good only for as long as the function runs that was given it.
type View struct {
	// Host is what stands behind the connection, nil while it is not known.
	Host *hypervisorv1.ProbeResponse
	// Guests, Pools and Networks are by UUID, Interfaces by name.
	Guests     map[string]*pb.GuestObject
	Pools      map[string]*pb.PoolObject
	Networks   map[string]*pb.NetworkObject
	Interfaces map[string]*pb.InterfaceObject
}

// NewFeed returns an empty feed that is not synced.
func NewFeed() *Feed {
	return &Feed{
		view: View{
			Guests: map[string]*pb.GuestObject{}, Pools: map[string]*pb.PoolObject{}, Networks: map[string]*pb.NetworkObject{},
			Interfaces: map[string]*pb.InterfaceObject{},
		},
		changed: make(chan struct{}), followers: map[*Follower]struct{}{},
	}
}

// Apply changes the picture. What is in there already is not told again, and nothing at all if there is nothing new. Events are told after
// the first Synced only.
func (f *Feed) Apply(o *pb.Objects) {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := &pb.Objects{}
	if o.GetHost() != nil && !proto.Equal(o.GetHost(), f.view.Host) {
		f.view.Host, told.Host = o.GetHost(), o.GetHost()
	}
	told.Guests = put(f.view.Guests, o.GetGuests(), (*pb.GuestObject).GetUuid)
	told.GoneGuests = drop(f.view.Guests, o.GetGoneGuests())
	told.Pools = put(f.view.Pools, o.GetPools(), (*pb.PoolObject).GetUuid)
	told.GonePools = drop(f.view.Pools, o.GetGonePools())
	told.Networks = put(f.view.Networks, o.GetNetworks(), (*pb.NetworkObject).GetUuid)
	told.GoneNetworks = drop(f.view.Networks, o.GetGoneNetworks())
	told.Interfaces = put(f.view.Interfaces, o.GetInterfaces(), (*pb.InterfaceObject).GetName)
	told.GoneInterfaces = drop(f.view.Interfaces, o.GetGoneInterfaces())
	if f.synced {
		told.Events = o.GetEvents()
	}
	if proto.Size(told) == 0 {
		return
	}
	f.tell(&pb.FollowResponse{Message: &pb.FollowResponse_Objects{Objects: told}})
}

// put enters objects and returns those that are new or different.
func put[T proto.Message](all map[string]T, objects []T, key func(T) string) []T {
	var told []T
	for _, o := range objects {
		if old, ok := all[key(o)]; ok && proto.Equal(old, o) {
			continue
		}
		all[key(o)] = o
		told = append(told, o)
	}
	return told
}

// drop removes objects and returns the keys of those that were there.
func drop[T any](all map[string]T, keys []string) []string {
	var told []string
	for _, k := range keys {
		if _, ok := all[k]; ok {
			delete(all, k)
			told = append(told, k)
		}
	}
	return told
}

// Synced says that the picture is true: the hypervisor is followed.
func (f *Feed) Synced() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced, f.stale = true, nil
	f.tell(&pb.FollowResponse{Message: &pb.FollowResponse_Synced{Synced: &pb.Synced{}}})
}

// Stale says since when the hypervisor is out of reach, and why. The picture stays.
func (f *Feed) Stale(since time.Time, cause error) {
	e := verr.From(cause)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = &pb.Stale{Since: timestamppb.New(since)}
	if e != nil {
		f.stale.Cause = &basev1.VirError{Code: int32(e.Code), Domain: int32(e.Domain), Message: e.Message, Errno: int32(e.Errno)}
	}
	f.tell(&pb.FollowResponse{Message: &pb.FollowResponse_Stale{Stale: f.stale}})
}

// tell numbers a message and hands it to all followers; mu is held.
func (f *Feed) tell(m *pb.FollowResponse) {
	f.seq++
	m.Seq = f.seq
	for w := range f.followers {
		select {
		case w.queue <- m:
		default:
			f.leave(w)
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// leave ends a follower; mu is held.
func (f *Feed) leave(w *Follower) {
	if _, ok := f.followers[w]; ok {
		delete(f.followers, w)
		close(w.queue)
	}
}

// Look calls a function with the picture as it is now. The function must be quick and must not call the feed.
func (f *Feed) Look(look func(*View)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look(&f.view)
}

// Guest returns a guest as the picture has it, or nil.
func (f *Feed) Guest(uuid string) (g *pb.GuestObject) {
	f.Look(func(v *View) { g = v.Guests[uuid] })
	return g
}

// Await waits until a condition holds and returns the number of the newest message then, for the answer of the call that has made the
// change. The function must be quick and must not call the feed.
func (f *Feed) Await(ctx context.Context, holds func(*View) bool) (seq uint64, err error) {
	for {
		f.mu.Lock()
		ok := holds(&f.view)
		seq, changed := f.seq, f.changed
		f.mu.Unlock()
		if ok {
			return seq, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return seq, ctx.Err()
		}
	}
}

// Seq is the number of the newest message.
func (f *Feed) Seq() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seq
}

// Follower reads a feed from a beginning on.
type Follower struct {
	feed  *Feed
	queue chan *pb.FollowResponse
	first []*pb.FollowResponse
}

// Follow begins to follow: the picture first, then what changes. The caller must Close it.
func (f *Feed) Follow() *Follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &Follower{feed: f, queue: make(chan *pb.FollowResponse, backlog), first: f.picture()}
	f.followers[w] = struct{}{}
	return w
}

// picture is what a new follower is told first; mu is held.
func (f *Feed) picture() []*pb.FollowResponse {
	var all []*pb.FollowResponse
	batch, size := &pb.Objects{Host: f.view.Host}, 0
	flush := func() {
		all = append(all, &pb.FollowResponse{Seq: f.seq, Message: &pb.FollowResponse_Objects{Objects: batch}})
		batch, size = &pb.Objects{}, 0
	}
	room := func(m proto.Message) {
		if n := proto.Size(m); size > 0 && size+n > batchBytes {
			flush()
			size = n
		} else {
			size += n
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.view.Guests)) {
		room(f.view.Guests[k])
		batch.Guests = append(batch.Guests, f.view.Guests[k])
	}
	for _, k := range slices.Sorted(maps.Keys(f.view.Pools)) {
		room(f.view.Pools[k])
		batch.Pools = append(batch.Pools, f.view.Pools[k])
	}
	for _, k := range slices.Sorted(maps.Keys(f.view.Networks)) {
		room(f.view.Networks[k])
		batch.Networks = append(batch.Networks, f.view.Networks[k])
	}
	for _, k := range slices.Sorted(maps.Keys(f.view.Interfaces)) {
		room(f.view.Interfaces[k])
		batch.Interfaces = append(batch.Interfaces, f.view.Interfaces[k])
	}
	flush()
	// A picture that was true once is told as such, and then since when it is no longer.
	if f.synced {
		all = append(all, &pb.FollowResponse{Seq: f.seq, Message: &pb.FollowResponse_Synced{Synced: &pb.Synced{}}})
	}
	if f.stale != nil {
		all = append(all, &pb.FollowResponse{Seq: f.seq, Message: &pb.FollowResponse_Stale{Stale: f.stale}})
	}
	return all
}

// Next returns the next message. It fails when the context ends, and with verr.OperationAborted for a follower that is too slow.
func (w *Follower) Next(ctx context.Context) (*pb.FollowResponse, error) {
	if len(w.first) > 0 {
		m := w.first[0]
		w.first = w.first[1:]
		return m, nil
	}
	select {
	case m, ok := <-w.queue:
		if !ok {
			return nil, verr.New(verr.OperationAborted, "changes were dropped because the reader is too slow: follow again")
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the following.
func (w *Follower) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.leave(w)
}
