package endpoint

import (
	"context"
	"errors"
	"net"
	"reflect"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// expired says whether an error means that the session is over.
func expired(err error) bool { return fault.Is(err, &types.NotAuthenticated{}) }

// refused says whether an error means that user or password are wrong.
func refused(err error) bool { return fault.Is(err, &types.InvalidLogin{}) }

// answered says whether an error is the endpoint's own answer, so that the connection to it works.
func answered(err error) bool {
	var f faulty
	return errors.As(err, &f)
}

// faulty is what all of govmomi's errors that carry a fault implement.
type faulty interface{ Fault() types.BaseMethodFault }

// unreachable explains a failed attempt to connect.
func (c Config) unreachable(err error) *verr.Error {
	var known *verr.Error
	var untrusted *certificateError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &untrusted):
		return c.fail(verr.Internal, "connect to %s: %w", c.Address, untrusted)
	case refused(err):
		return c.fail(verr.AuthFailed, "log in to %s as %q: user or password is wrong: %w", c.Address, c.User, err)
	case answered(err):
		return c.fail(verr.Internal, "log in to %s as %q: %s: %w", c.Address, c.User, faultName(err), err)
	}
	return c.fail(verr.Internal, "connect to %s: %w", c.Address, err)
}

// failed explains a failed call.
func (c Config) failed(err error) *verr.Error {
	var known *verr.Error
	var timeout net.Error
	switch {
	case errors.As(err, &known):
		return known
	case expired(err):
		return c.fail(verr.AuthFailed, "the session was not accepted: %w", err)
	case fault.Is(err, &types.NoPermission{}):
		return c.fail(verr.AccessDenied, "user %q lacks a privilege: %w", c.User, err)
	case answered(err):
		return c.fail(verr.Internal, "%s: %w", faultName(err), err)
	case errors.Is(err, context.Canceled):
		return c.fail(verr.OperationAborted, "call given up: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return c.fail(verr.OperationTimeout, "%s did not answer in time: %w", c.Address, err)
	}
	return c.fail(verr.Internal, "call to %s failed: %w", c.Address, err)
}

func (c Config) fail(code verr.Code, format string, args ...any) *verr.Error {
	return verr.New(code, "endpoint %q: "+format, append([]any{c.Name}, args...)...).In(verr.FromESX)
}

// faultName is the type of a fault, which says more than its text often does.
func faultName(err error) string {
	var f faulty
	if !errors.As(err, &f) || f.Fault() == nil {
		return "fault"
	}
	t := reflect.TypeOf(f.Fault())
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return "fault " + t.Name()
}
