package domain

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// outcome is what a failed call to a driver may have done.
type outcome int

const (
	// refused: the driver answered with an error, or was never asked; nothing was changed.
	refused outcome = iota
	// slow: the driver lives and has not answered in time, or was not waited for.
	slow
	// orphaned: the driver died with the call in flight.
	orphaned
)

// outcomeOf reads an error of a call to a driver.
func outcomeOf(err error) outcome {
	st, ok := status.FromError(err)
	if !ok {
		return refused
	}
	var told basev1.Outcome
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *basev1.VirError:
			return refused
		case *basev1.CallInfo:
			told = d.Outcome
		}
	}
	if told == basev1.Outcome_OUTCOME_NOT_SENT || told == basev1.Outcome_OUTCOME_NOT_APPLIED {
		return refused
	}
	switch st.Code() {
	case codes.DeadlineExceeded, codes.Canceled:
		return slow
	case codes.Unavailable:
		return orphaned
	}
	if told != basev1.Outcome_OUTCOME_UNSPECIFIED {
		return orphaned
	}
	return refused
}
