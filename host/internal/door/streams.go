package door

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// streams are the open streams of one client.
type streams struct {
	w   *rpc.Writer
	lim *Limits
	wg  sync.WaitGroup // two goroutines a stream

	mu     sync.Mutex // guards the fields below; never held while a frame is sent
	open   map[streamKey]*stream
	closed bool
}

// streamKey finds the stream of a frame.
type streamKey struct {
	program   uint32
	procedure int32
	serial    uint32
}

func keyOf(h rpc.Header) streamKey { return streamKey{h.Program, h.Procedure, h.Serial} }

func newStreams(w *rpc.Writer, lim *Limits) *streams {
	return &streams{w: w, lim: lim, open: map[streamKey]*stream{}}
}

// add makes the stream of a call. On success the device and cancel are the stream's, and begin must be called.
func (ss *streams) add(h rpc.Header, device io.ReadWriteCloser, cancel context.CancelFunc) (*stream, error) {
	room := ss.lim.StreamBytes
	st := &stream{
		owner: ss, header: h, device: device, cancel: cancel, room: semaphore.NewWeighted(int64(room)),
		in: make(chan inbound, room/smallFrame+2), done: make(chan struct{}),
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case ss.closed:
		return nil, verr.New(verr.OperationAborted, "client has left")
	case len(ss.open) >= ss.lim.Streams:
		return nil, verr.New(verr.OperationFailed, "too many streams are open on this connection, at most %d", ss.lim.Streams)
	case ss.open[keyOf(h)] != nil:
		return nil, verr.New(verr.RPC, "serial %d has an open stream already", h.Serial).In(verr.FromRPC)
	}
	ss.open[keyOf(h)] = st
	ss.wg.Add(2)
	return st, nil
}

// get returns the stream that a frame belongs to, or nil.
func (ss *streams) get(h rpc.Header) *stream {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.open[keyOf(h)]
}

// remove forgets a stream.
func (ss *streams) remove(st *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, keyOf(st.header))
}

// take deals with a stream's frame, which has come from a reader. Frames without a stream are late, and dropped.
func (ss *streams) take(f rpc.Frame, from *rpc.Reader) {
	st := ss.get(f.Header)
	if st == nil {
		return
	}
	switch f.Status {
	case rpc.Continue:
		st.put(f.Payload, from)
	case rpc.OK:
		st.finish()
	case rpc.Failed:
		st.abort()
	}
}

// takeHole deals with a hole in a stream. One in a stream that knows none ends the connection.
func (ss *streams) takeHole(f rpc.Frame) error {
	st := ss.get(f.Header)
	if st == nil {
		return nil
	}
	if _, ok := st.device.(sparse); !ok {
		return errHole
	}
	var h streamHole
	if _, err := xdr.Unmarshal(f.Payload, &h); err != nil || h.Length < 0 || h.Flags != 0 {
		return errHole
	}
	st.queue(inbound{hole: uint64(h.Length)})
	return nil
}

// close ends all streams and waits for their goroutines.
func (ss *streams) close() {
	ss.mu.Lock()
	ss.closed = true
	all := make([]*stream, 0, len(ss.open))
	for _, st := range ss.open {
		all = append(all, st)
	}
	ss.mu.Unlock()
	for _, st := range all {
		st.end()
	}
	ss.wg.Wait()
}
