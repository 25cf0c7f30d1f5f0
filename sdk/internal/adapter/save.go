package adapter

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// heartbeat is how often a save or restore says that it is still at it; the contract allows 5 seconds.
const heartbeat = time.Second

// saveService is Saver, with the messages that say that the driver lives.
type saveService struct {
	pb.UnsafeSaveServiceServer
	saver hypervisor.Saver
}

// Save passes on what the driver tells, and repeats the last of its progress while it is silent.
func (s *saveService) Save(req *pb.SaveRequest, stream grpc.ServerStreamingServer[pb.SaveResponse]) error {
	progress := func(p *pb.SaveProgress) error {
		return stream.Send(&pb.SaveResponse{Message: &pb.SaveResponse_Progress{Progress: p}})
	}
	b := pulse{send: progress}
	stop := b.start(stream.Context())
	defer stop()
	return s.saver.Save(stream.Context(), req, func(r *pb.SaveResponse) error {
		if p := r.GetProgress(); p != nil {
			return b.tell(p)
		}
		return b.between(r.GetSaved() != nil, func() error { return stream.Send(r) })
	})
}

// AbortSave passes on.
func (s *saveService) AbortSave(ctx context.Context, req *pb.AbortSaveRequest) (*pb.AbortSaveResponse, error) {
	return s.saver.AbortSave(ctx, req)
}

// Restore passes on what the driver tells, and its answer at last.
func (s *saveService) Restore(req *pb.RestoreRequest, stream grpc.ServerStreamingServer[pb.RestoreResponse]) error {
	b := pulse{last: &pb.SaveProgress{}, send: func(p *pb.SaveProgress) error {
		return stream.Send(&pb.RestoreResponse{Message: &pb.RestoreResponse_Progress{Progress: p}})
	}}
	stop := b.start(stream.Context())
	defer stop()
	started, err := s.saver.Restore(stream.Context(), req, func(p *pb.SaveProgress) {
		// Whoever does not hear it has gone, which the context tells.
		_ = b.tell(p)
	})
	if err != nil {
		return err
	}
	return b.between(true, func() error {
		return stream.Send(&pb.RestoreResponse{Message: &pb.RestoreResponse_Started{Started: started}})
	})
}

// pulse sends progress, and the last of it again while there is no other.
type pulse struct {
	send func(*pb.SaveProgress) error

	mu   sync.Mutex       // one sender at a time, as gRPC wants it; guards what follows
	last *pb.SaveProgress // nil while progress may not be told
}

// start repeats what was told last until it is stopped, which waits for the goroutine.
func (b *pulse) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.again()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (b *pulse) again() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last != nil {
		// The driver learns of an error when it has something to say itself.
		_ = b.send(b.last)
	}
}

// tell sends progress.
func (b *pulse) tell(p *pb.SaveProgress) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = p
	return b.send(p)
}

// between sends a message of another kind, after which there is progress to be told again unless it was the last one.
func (b *pulse) between(last bool, send func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = nil
	if !last {
		b.last = &pb.SaveProgress{}
	}
	return send()
}
