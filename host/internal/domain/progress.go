package domain

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of a save or restore, as the contract tells them.
const (
	// driverSilence is how long a driver may say nothing.
	driverSilence = 30 * time.Second
	// noProgress is how long not one more byte may be processed.
	noProgress = 5 * time.Minute
)

var (
	// errImpatient marks a driver that lives and was not waited for any longer.
	errImpatient = errors.New("the driver was not waited for any longer")
	errSilent    = verr.New(verr.OperationTimeout, "driver has said nothing for %v: %w", driverSilence, errImpatient)
	errStill     = verr.New(verr.OperationTimeout, "nothing has moved for %v: %w", noProgress, errImpatient)
	// errAborted is why a job ends that AbortJob has ended.
	errAborted = verr.New(verr.OperationAborted, "domain save job: canceled by client")
)

// Operations of jobs, virDomainJobOperation.
const (
	OperationSave    = 2
	OperationRestore = 3
)

// JobInfo is what is known of a save or restore.
type JobInfo struct {
	// Operation is OperationSave or OperationRestore, 0 for no job.
	Operation int32
	// Elapsed is the time since it began, or that it took.
	Elapsed time.Duration
	// Total, Processed and Remaining are in bytes.
	Total, Processed, Remaining uint64
}

// patience is how long a driver may say nothing, and how long nothing may move.
type patience struct{ silence, still time.Duration }

// work is a save or restore under way.
type work struct {
	patience
	operation int32
	began     time.Time
	// abort ends it; nil where that is not possible.
	abort context.CancelCauseFunc
	last  atomic.Pointer[pb.SaveProgress]
}

func (w *work) info() *JobInfo {
	p := w.last.Load()
	return &JobInfo{
		Operation: w.operation, Elapsed: time.Since(w.began),
		Total: p.GetTotalBytes(), Processed: p.GetProcessedBytes(), Remaining: p.GetRemainingBytes(),
	}
}

// beginWork lets clients see a long job. The function that it returns ends that; a job that was completed is remembered.
func (d *Domain) beginWork(operation int32, abort context.CancelCauseFunc) (*work, func(completed bool)) {
	w := &work{patience: patience{driverSilence, noProgress}, operation: operation, began: time.Now(), abort: abort}
	d.work.Store(w)
	return w, func(completed bool) {
		if completed {
			d.done.Store(w.info())
		}
		d.work.Store(nil)
	}
}

// JobInfo tells of the save or restore under way; it is zero if there is none.
func (d *Domain) JobInfo() JobInfo {
	if w := d.work.Load(); w != nil {
		return *w.info()
	}
	return JobInfo{}
}

// LastJob tells of the last save that was completed since the core has started, zero if there was none. It is told once, unless it is to be
// kept.
func (d *Domain) LastJob(keep bool) JobInfo {
	last := d.done.Load()
	if last == nil {
		return JobInfo{}
	}
	if !keep {
		d.done.CompareAndSwap(last, nil)
	}
	return *last
}

// AbortJob ends the save under way and does not wait for its end.
func (d *Domain) AbortJob() error {
	w := d.work.Load()
	switch {
	case w == nil && !d.View().Active():
		return notRunning()
	case w == nil:
		return verr.New(verr.OperationInvalid, "no job is active on the domain")
	case w.abort == nil:
		return verr.New(verr.OperationInvalid, "a restore cannot be aborted: destroy the domain instead")
	}
	w.abort(errAborted)
	return nil
}

// moving is a message of a driver's that may tell of progress.
type moving interface{ GetProgress() *pb.SaveProgress }

// follow reads what a driver tells of a save or restore until take has got what it waits for. It gives up when the driver is silent or
// nothing moves; cancel ends the stream, and its cause is the error then.
func follow[M any, P interface {
	*M
	moving
}](ctx context.Context, cancel context.CancelCauseFunc, w *work, stream grpc.ServerStreamingClient[M], take func(P) (last bool)) error {
	silent := time.AfterFunc(w.silence, func() { cancel(errSilent) })
	defer silent.Stop()
	still := time.AfterFunc(w.still, func() { cancel(errStill) })
	defer still.Stop()
	processed := uint64(0)
	for {
		msg, err := stream.Recv()
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return verr.New(verr.Internal, "driver ended without an answer")
		case err != nil:
			return err
		}
		silent.Reset(w.silence)
		if p := P(msg).GetProgress(); p != nil {
			if p.GetProcessedBytes() > processed {
				processed = p.GetProcessedBytes()
				still.Reset(w.still)
			}
			if p.GetTotalBytes() > 0 {
				w.last.Store(p)
			}
		}
		if take(msg) {
			return nil
		}
	}
}
