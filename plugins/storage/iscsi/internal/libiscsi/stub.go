//go:build !libiscsi || !cgo

package libiscsi

import (
	"context"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
)

// Initiator implements initiator.Initiator where there is no libiscsi.
type Initiator struct{}

var _ initiator.Initiator = Initiator{}

// Available implements initiator.Initiator.
func (Initiator) Available() error { return initiator.ErrUnavailable }

// Discover implements initiator.Initiator.
func (Initiator) Discover(context.Context, initiator.Login) ([]initiator.Target, error) {
	return nil, initiator.ErrUnavailable
}

// Open implements initiator.Initiator.
func (Initiator) Open(context.Context, initiator.Login) (initiator.Session, error) {
	return nil, initiator.ErrUnavailable
}
