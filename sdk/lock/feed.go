package lock

import (
	"context"
	"sync"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxBehind is how many changes a reader of a Feed may be behind: as many locks as a manager may have can be lost at once, and be held
// again.
const maxBehind = 2 * 16384

// Feed hands changes to whoever watches; its Watch is Manager's. Publish never blocks. The zero value is ready, all methods are safe
// concurrently, and a Feed must not be copied.
type Feed struct {
	mu      sync.Mutex // guards readers
	readers map[*reader]bool
}

// reader is one Watch under way.
type reader struct {
	changes chan *pb.WatchResponse
	// behind is closed when a change found no room.
	behind chan struct{}
}

// Publish hands a change to all that watch. One that is too far behind is sent away, and asks for everything anew.
func (f *Feed) Publish(change *pb.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		select {
		case r.changes <- change:
		default:
			close(r.behind)
			delete(f.readers, r)
		}
	}
}

// Watch implements Manager's Watch.
func (f *Feed) Watch(ctx context.Context, send func(*pb.WatchResponse) error) error {
	r := &reader{changes: make(chan *pb.WatchResponse, maxBehind), behind: make(chan struct{})}
	f.mu.Lock()
	if f.readers == nil {
		f.readers = map[*reader]bool{}
	}
	f.readers[r] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.readers, r)
	}()
	// The hello comes first, and only once nothing can be missed.
	if err := send(&pb.WatchResponse{}); err != nil {
		return err
	}
	for {
		select {
		case change := <-r.changes:
			if err := send(change); err != nil {
				return err
			}
		case <-r.behind:
			return verr.New(verr.OperationAborted, "changes of locks were dropped because the reader is too slow: watch again")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
