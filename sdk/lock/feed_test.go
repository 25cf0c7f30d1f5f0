package lock_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lodgevirt/lodge/sdk/lock"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func change(place string) *pb.WatchResponse {
	return &pb.WatchResponse{Lease: &pb.Lease{Place: place, Status: pb.Status_STATUS_LOST}}
}

func TestFeedBeginsWithAHelloAndKeepsTheOrder(t *testing.T) {
	var feed lock.Feed
	feed.Publish(change("before anybody watches"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err := feed.Watch(ctx, func(c *pb.WatchResponse) error {
		if got = append(got, c.GetLease().GetPlace()); len(got) == 1 {
			for _, place := range []string{"a", "b", "c"} {
				feed.Publish(change(place))
			}
		}
		if len(got) == 4 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || fmt.Sprint(got) != "[ a b c]" {
		t.Errorf("got %q, error %v", got, err)
	}
}

func TestSlowReaderIsSentAway(t *testing.T) {
	var feed lock.Feed
	err := feed.Watch(t.Context(), func(c *pb.WatchResponse) error {
		if c.GetLease() == nil {
			for range 40000 {
				feed.Publish(change("more than there is room for"))
			}
		}
		return nil
	})
	if !verr.Is(err, verr.OperationAborted) {
		t.Errorf("watch ended with %v", err)
	}
}

func TestWatchEndsWithTheSender(t *testing.T) {
	var feed lock.Feed
	broken := errors.New("stream is broken")
	if err := feed.Watch(t.Context(), func(*pb.WatchResponse) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("watch ended with %v", err)
	}
	feed.Publish(change("nobody is there"))
}

// A manager that embeds a Feed has its Watch already.
func ExampleFeed() {
	type manager struct{ lock.Feed }
	m := &manager{}
	m.Publish(&pb.WatchResponse{Lease: &pb.Lease{Place: "/disk", Status: pb.Status_STATUS_LOST}})
	fmt.Println("told to nobody")
	// Output: told to nobody
}
