package lockmanager

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// till notes what is paid.
type till struct {
	paid []string
	err  error
}

func (t *till) release(_ context.Context, _ uuid.UUID, generation uint64, some ...lockspace.Resource) (int, error) {
	line := fmt.Sprint(generation, ":")
	for _, r := range some {
		line += " " + r.Path()
	}
	t.paid = append(t.paid, line)
	return len(some), t.err
}

func image(path string) lockspace.Resource { return lockspace.ForDisk("", path, lockspace.Exclusive) }

func TestDebtsAreOfTheLocksThatWereAskedFor(t *testing.T) {
	var d Debts
	var till till
	life := debt{uuid.New(), 1}
	d.add(life, image("/a"), image("/b"))
	d.add(debt{life.uuid, 2})
	d.add(debt{life.uuid, 2}, image("/c"))
	if err := d.forgive(t.Context(), life, []lockspace.Resource{image("/b"), image("/z")}); err != nil {
		t.Fatal(err)
	}
	if err := d.forgive(t.Context(), debt{life.uuid, 2}, []lockspace.Resource{image("/c")}); err != nil {
		t.Fatal(err)
	}
	till.err = errors.New("away")
	d.payOnce(t.Context(), till.release)
	d.payOnce(t.Context(), till.release)
	till.err = nil
	d.payOnce(t.Context(), till.release)
	d.payOnce(t.Context(), till.release)
	counts := map[string]int{}
	for _, line := range till.paid {
		counts[line]++
	}
	if diff := cmp.Diff(map[string]int{"1: /a": 3, "2:": 3}, counts); diff != "" {
		t.Errorf("what was paid: %s", diff)
	}
}

func TestLockThatIsWantedAgainWaitsForItsRelease(t *testing.T) {
	var d Debts
	life := debt{uuid.New(), 1}
	d.add(life, image("/a"))
	begun, end := make(chan struct{}), make(chan struct{})
	paid := make(chan struct{})
	go func() {
		defer close(paid)
		d.payOnce(t.Context(), func(context.Context, uuid.UUID, uint64, ...lockspace.Resource) (int, error) {
			close(begun)
			<-end
			return 1, nil
		})
	}()
	<-begun
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.forgive(short, life, []lockspace.Resource{image("/a")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("forgiven while it is being paid: %v", err)
	}
	close(end)
	<-paid
	if err := d.forgive(t.Context(), life, []lockspace.Resource{image("/a")}); err != nil {
		t.Error(err)
	}
}
