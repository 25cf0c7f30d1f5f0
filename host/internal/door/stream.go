package door

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// streamChunk is how much of a stream one frame to the client carries, in bytes; libvirt's clients take at most 262120.
	streamChunk = 64 << 10
	// maxChunk is the most of it, for devices that read in pieces of their own.
	maxChunk = 262120
	// smallFrame is what a frame from the client counts for at least, so that tiny ones are bounded in number too.
	smallFrame = 4 << 10
	// keptFrame is from where on a frame waits in the buffer in which it came.
	keptFrame = 32 << 10
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
	in     chan inbound
	room   *semaphore.Weighted

	finished, once sync.Once
	// done is closed when the stream has ended.
	done chan struct{}
}

// inbound is what the client sent: data, a hole, or with neither its end of the stream.
type inbound struct {
	data []byte
	hole uint64
	// buffer is what data lies in, if that is to be used again.
	buffer []byte
}

// streamHole is the payload of a hole.
type streamHole struct {
	Length int64
	Flags  uint32
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
	if device, ok := st.device.(sparse); ok {
		st.copyPieces(device)
		return
	}
	buf := make([]byte, streamChunk)
	for {
		n, err := st.device.Read(buf)
		if n > 0 && st.send(rpc.Continue, buf[:n]) != nil {
			st.end()
			return
		}
		if err != nil {
			st.stop(err)
			return
		}
	}
}

// stop tells the client of a device's end.
func (st *stream) stop(err error) {
	if errors.Is(err, io.EOF) {
		_ = st.send(rpc.Continue, nil)
		return
	}
	st.fail(err)
}

// copyPieces sends what a device with holes says.
func (st *stream) copyPieces(device sparse) {
	for {
		data, hole, err := device.piece()
		if err != nil {
			st.stop(err)
			return
		}
		for parts := (len(data) + maxChunk - 1) / maxChunk; parts > 0 && err == nil; parts-- {
			n := (len(data) + parts - 1) / parts // frames of one size, so that none is tiny
			err, data = st.send(rpc.Continue, data[:n]), data[n:]
		}
		if hole > 0 && err == nil {
			err = st.sendHole(hole)
		}
		if err != nil {
			st.end()
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
		case in := <-st.in:
			if in.data == nil && in.hole == 0 {
				st.close()
				return
			}
			if err := st.give(in); err != nil {
				st.fail(err)
				return
			}
		}
	}
}

// give hands the device one thing that the client sent.
func (st *stream) give(in inbound) error {
	if in.hole > 0 {
		device, ok := st.device.(sparse)
		if !ok {
			return errHole
		}
		return device.hole(in.hole)
	}
	_, err := st.device.Write(in.data)
	rpc.Release(in.buffer)
	st.room.Release(weight(len(in.data), st.owner.lim.StreamBytes))
	return err
}

// close confirms the client's end of the stream once the device has all.
func (st *stream) close() {
	if device, ok := st.device.(finisher); ok {
		if err := device.finish(); err != nil {
			st.fail(err)
			return
		}
	}
	_ = st.send(rpc.OK, nil)
	st.end()
}

// weight is what a frame takes of a stream's room.
func weight(size, room int) int64 { return int64(min(max(size, smallFrame), room)) }

// patience is how long the device may take for what it was given.
func (st *stream) patience() time.Duration {
	if _, ok := st.device.(finisher); ok {
		return st.owner.lim.TransferTimeout
	}
	return st.owner.lim.StreamTimeout
}

// put queues data for the device, which has come from a reader.
func (st *stream) put(data []byte, from *rpc.Reader) {
	if len(data) == 0 {
		return
	}
	w := weight(len(data), st.owner.lim.StreamBytes)
	if !st.room.TryAcquire(w) {
		ctx, cancel := context.WithTimeout(context.Background(), st.patience())
		defer cancel()
		if err := st.room.Acquire(ctx, w); err != nil {
			st.fail(errStuck)
			return
		}
	}
	in := inbound{data: data}
	if len(data) > keptFrame {
		in.buffer = from.Keep()
	}
	if in.buffer == nil {
		in.data = append([]byte(nil), data...)
	}
	st.queue(in)
}

// queue hands something to copyIn.
func (st *stream) queue(in inbound) {
	select {
	case st.in <- in:
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

// sendHole sends a hole, unless the stream has ended.
func (st *stream) sendHole(length uint64) error {
	select {
	case <-st.done:
		return errStreamEnded
	default:
	}
	payload, err := xdr.Append(nil, &streamHole{Length: int64(length)})
	if err != nil {
		return err
	}
	h := st.header
	h.Type, h.Status = rpc.StreamHole, rpc.Continue
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
		time.AfterFunc(st.patience(), func() { st.fail(errStuck) })
		st.queue(inbound{})
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
