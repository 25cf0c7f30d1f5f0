package domain

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
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

// outcomeOf reads an error of a call to a driver. What the supervisor says of the call (CallInfo) goes before everything else: it
// also puts a libvirt error into what it reports of a driver that died.
func outcomeOf(err error) outcome {
	if errors.Is(err, errImpatient) || errors.Is(err, errDestroyed) {
		return slow
	}
	st, ok := status.FromError(err)
	if !ok {
		return refused
	}
	told, answered := basev1.Outcome_OUTCOME_UNSPECIFIED, false
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *basev1.VirError:
			answered = true
		case *basev1.CallInfo:
			told = d.Outcome
		}
	}
	late := st.Code() == codes.DeadlineExceeded || st.Code() == codes.Canceled
	switch told {
	case basev1.Outcome_OUTCOME_NOT_SENT, basev1.Outcome_OUTCOME_NOT_APPLIED:
		return refused
	case basev1.Outcome_OUTCOME_UNSPECIFIED:
		if answered || !late && st.Code() != codes.Unavailable {
			return refused
		}
	case basev1.Outcome_OUTCOME_APPLIED, basev1.Outcome_OUTCOME_UNKNOWN:
	}
	if late {
		return slow
	}
	return orphaned
}

// neverSent reports whether a driver surely knows nothing of a call that has failed: it does not serve it, or was never asked.
func neverSent(err error) bool {
	st, ok := status.FromError(err)
	if !ok || verr.Is(verr.From(err), verr.NoSupport) {
		return true
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*basev1.CallInfo); ok {
			return info.Outcome == basev1.Outcome_OUTCOME_NOT_SENT
		}
	}
	return false
}
