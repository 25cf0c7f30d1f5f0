package driver

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// gate furnishes a guest, at once or when its process has got the guest's locks: until then its files may be another guest's. A
// guest without registrations and claim has its locks already, and its process does not stop at the gate.
func (s *start) gate(ctx context.Context, spec *process.Spec) error {
	resolved := s.req.GetResolved()
	if len(resolved.GetRegistrations()) == 0 && !resolved.GetClaim() {
		return s.furnish(ctx, spec.Owner)
	}
	spec.Registrations = registrations(resolved.GetRegistrations())
	spec.Ready = func(ctx context.Context, id process.ID) error {
		if resolved.GetClaim() {
			if err := s.driver.core.Claim(ctx, s.life.ref, int32(id.PID), id.StartTime); err != nil {
				s.refused = err
				return err
			}
		}
		s.refused = s.furnish(ctx, spec.Owner)
		return s.refused
	}
	return nil
}

func registrations(list []*lockv1.Registration) []process.Registration {
	var all []process.Registration
	for _, r := range list {
		made := process.Registration{Socket: r.GetSocket()}
		for _, e := range r.GetExchanges() {
			made.Exchanges = append(made.Exchanges, process.Exchange{
				Send: e.GetSend(), Receive: int(min(e.GetReceive(), maxInt32)), Want: e.GetWant(), Mask: e.GetMask(),
			})
		}
		all = append(all, made)
	}
	return all
}

// maxInt32 keeps a length from becoming negative where an int has 32 bits.
const maxInt32 = 1<<31 - 1

// explainLaunch tells an error of what the guest's process did at the gate from one of QEMU.
func (s *start) explainLaunch(err error) error {
	switch {
	case s.refused != nil:
		return s.refused
	case errors.Is(err, process.ErrRegistration):
		return verr.New(verr.OperationFailed, "the guest could not be made known to the lock manager: %w", err)
	}
	return s.explain(err)
}
