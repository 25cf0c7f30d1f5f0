package adapter

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// maxGuests is how many guests one Collect may name.
	maxGuests = 16384
	// guestDeadline is how long one guest may take to be measured.
	guestDeadline = 2 * time.Second
)

// statsService is Stats, spread over many guests.
type statsService struct {
	pb.UnsafeStatsServiceServer
	stats hypervisor.Stats
}

// Collect asks for all guests at once and sends each answer as it comes. A guest whose answer is an error, a panic or late is
// left out.
func (s *statsService) Collect(req *pb.CollectRequest, stream grpc.ServerStreamingServer[pb.CollectResponse]) error {
	guests := req.GetGuests()
	if len(guests) > maxGuests {
		return verr.New(verr.InvalidArg, "%d guests in one request, at most %d are possible", len(guests), maxGuests)
	}
	ctx, cancel := context.WithTimeout(stream.Context(), guestDeadline)
	defer cancel()
	// Holds all answers, so that a driver that ignores its deadline keeps only its own goroutine.
	answers := make(chan *pb.CollectResponse, len(guests))
	for _, g := range guests {
		go func() { answers <- s.measure(ctx, g, req.GetGroups()) }()
	}
	for range guests {
		select {
		case a := <-answers:
			if a == nil {
				continue
			}
			if err := stream.Send(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return stream.Context().Err()
		}
	}
	return nil
}

// measure returns the figures of one guest, or nil.
func (s *statsService) measure(ctx context.Context, g *pb.GuestHandle, groups uint32) (answer *pb.CollectResponse) {
	defer func() {
		if r := recover(); r != nil {
			reportPanic("GuestStats", fmt.Sprint(r))
			answer = nil
		}
	}()
	stats, err := s.stats.GuestStats(ctx, g, groups)
	if err != nil {
		return nil
	}
	return &pb.CollectResponse{Uuid: g.GetGuest().GetUuid(), Stats: stats}
}
