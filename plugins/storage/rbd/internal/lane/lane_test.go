package lane

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestACallReturnsWhatItFinds(t *testing.T) {
	l := New("place", 2, 2)
	if n, err := Do(t.Context(), l, 1, func(context.Context) (int, error) { return 7, nil }, nil); n != 7 || err != nil {
		t.Errorf("%d, error %v", n, err)
	}
	want := errors.New("no")
	if _, err := Do(t.Context(), l, 1, func(context.Context) (int, error) { return 0, want }, nil); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
	if _, err := Do(t.Context(), l, 1, func(context.Context) (int, error) { panic("odd") }, nil); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("error %v", err)
	}
}

func TestStuckCallsKeepNobodyWaiting(t *testing.T) {
	defer goleak.VerifyNone(t)
	l := New("the cluster", 4, 3)
	release, dropped := make(chan struct{}), make(chan int, 3)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := Do(ctx, l, 1, func(context.Context) (int, error) { <-release; return 1, nil }, func(n int) { dropped <- n })
		cancel()
		if !verr.Is(err, verr.OperationTimeout) || !strings.Contains(err.Error(), "the cluster") {
			t.Errorf("error %v", err)
		}
	}
	called := false
	if _, err := Do(t.Context(), l, 1, func(context.Context) (int, error) { called = true; return 0, nil }, nil); called || !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("called %v, error %v", called, err)
	}
	close(release)
	for range 3 {
		<-dropped
	}
	l.Wait()
	if n, err := Do(t.Context(), l, 4, func(context.Context) (int, error) { return 5, nil }, nil); n != 5 || err != nil {
		t.Errorf("afterwards: %d, error %v", n, err)
	}
}

func TestACallWaitsForRoomWithinItsTime(t *testing.T) {
	l := New("place", 1, 9)
	release, begun, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = Do(context.Background(), l, 1, func(context.Context) (int, error) { close(begun); <-release; return 0, nil }, nil)
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Do(ctx, l, 1, func(context.Context) (int, error) { return 0, nil }, nil); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("error %v", err)
	}
	close(release)
	<-ended
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Do(ctx, l, 1, func(context.Context) (int, error) { time.Sleep(time.Hour); return 0, nil }, nil); !verr.Is(err, verr.OperationAborted) {
		t.Errorf("error %v", err)
	}
}
