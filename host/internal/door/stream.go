package door

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// streamChunk is how much of a stream one frame to the client carries, in bytes; libvirt's clients take at most 262120.
	streamChunk = 64 << 10
	// smallFrame is what a frame from the client counts for at least, so that tiny ones are bounded in number too.
	smallFrame = 4 << 10
)

var (
	// errHole ends a connection whose client sends holes into a stream that is not sparse.
	errHole = errors.New("hole in a stream that is not sparse")
	// errStreamEnded says that a frame came too late to be sent.
	errStreamEnded = errors.New("stream has ended")
	// errStuck says that a device did not take its data in time.
	errStuck = verr.New(verr.OperationTimeout, "stream's device takes no data")
)

// stream is a device that a call has opened, from the call's reply until one side has ended it.
//
// One goroutine copies from the device to the client and waits while the client does not read, so that at most one chunk is
// unsent. Another one copies what the client sent to the device; what waits for it is bounded, and a device that takes
// nothing for too long loses the stream.
type stream struct {
	owner *streams
	// header is what every frame of the stream begins with.
	header rpc.Header
	device io.ReadWriteCloser
	cancel context.CancelFunc
	in     chan []byte
	room   *semaphore.Weighted

	finished, once sync.Once
	// done is closed when the stream has ended.
	done chan struct{}
}

// begin starts to copy. The reply of the call has been sent, and add has counted the two goroutines.
func (st *stream) begin() {
	go func() {
		defer st.owner.wg.Done()
		st.copyOut()
	}()
	go func() {
		defer st.owner.wg.Done()
		st.copyIn()
	}()
}

// copyOut sends what the device says.
func (st *stream) copyOut() {
	buf := make([]byte, streamChunk)
	for {
		n, err := st.device.Read(buf)
		if n > 0 && st.send(rpc.Continue, buf[:n]) != nil {
			st.end()
			return
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = st.send(rpc.Continue, nil)
			return
		default:
			st.fail(err)
			return
		}
	}
}

// copyIn hands the device what the client sent.
func (st *stream) copyIn() {
	for {
		select {
		case <-st.done:
			return
		case data := <-st.in:
			if data == nil {
				_ = st.send(rpc.OK, nil)
				st.end()
				return
			}
			_, err := st.device.Write(data)
			st.room.Release(weight(len(data), st.owner.lim.StreamBytes))
			if err != nil {
				st.fail(err)
				return
			}
		}
	}
}

// weight is what a frame takes of a stream's room.
func weight(size, room int) int64 { return int64(min(max(size, smallFrame), room)) }

// put queues data for the device.
func (st *stream) put(data []byte) {
	if len(data) == 0 {
		return
	}
	w := weight(len(data), st.owner.lim.StreamBytes)
	if !st.room.TryAcquire(w) {
		ctx, cancel := context.WithTimeout(context.Background(), st.owner.lim.StreamTimeout)
		defer cancel()
		if err := st.room.Acquire(ctx, w); err != nil {
			st.fail(errStuck)
			return
		}
	}
	select {
	case st.in <- append([]byte(nil), data...):
	case <-st.done:
	}
}

// send sends a frame of the stream, unless it has ended.
func (st *stream) send(status rpc.Status, payload []byte) error {
	select {
	case <-st.done:
		return errStreamEnded
	default:
	}
	h := st.header
	h.Type, h.Status = rpc.Stream, status
	return st.owner.w.Send(h, payload)
}

// fail tells the client why the stream ends, and ends it.
func (st *stream) fail(err error) {
	payload, eerr := encodeError(err, verr.FromStreams)
	if eerr == nil {
		_ = st.send(rpc.Failed, payload)
	}
	st.end()
}

// finish takes the client's own end of the stream, which is answered once the device has taken all that came before. The
// timer is not stopped: a stream that has ended cannot fail.
func (st *stream) finish() {
	st.finished.Do(func() {
		time.AfterFunc(st.owner.lim.StreamTimeout, func() { st.fail(errStuck) })
		select {
		case st.in <- nil:
		case <-st.done:
		}
	})
}

// abort takes the client's abort, which drops what has not been taken.
func (st *stream) abort() {
	_ = st.send(rpc.OK, nil)
	st.end()
}

// end closes the device and forgets the stream. Frames of it that come later are dropped.
func (st *stream) end() {
	st.once.Do(func() {
		close(st.done)
		st.cancel()
		st.owner.remove(st)
		_ = st.device.Close()
	})
}
