package door

import (
	"context"
	"io"

	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// void is the argument or reply of a procedure that has none.
type void struct{}

// action does what a call asks and appends the reply's payload to b.
type action func(ctx context.Context, s *session, b []byte) ([]byte, error)

// opening opens the device behind a stream and appends the reply's payload to b. The context is that of the whole stream.
type opening func(ctx context.Context, s *session, b []byte) (io.ReadWriteCloser, []byte, error)

// handler is how a procedure is called. Exactly one of prepare and open is set.
type handler struct {
	// waits says that the action may wait for a driver or a disk.
	waits bool
	// prepare decodes the arguments, which are invalid once it has returned.
	prepare func(payload []byte) (action, error)
	// open is for procedures that begin a stream; they always may wait.
	open func(payload []byte) (opening, error)
}

// waits is what an action that answers from memory returns when it has to wait this once: act is then what answers.
type waits struct{ act action }

// Error makes it an error. No client is told it.
func (*waits) Error() string { return "the call has to wait" }

// memory makes a handler of a function that answers from memory.
func memory[A, R any](f func(s *session, args *A) (*R, error)) *handler {
	return &handler{prepare: func(payload []byte) (action, error) {
		args, err := decode[A](payload)
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, s *session, b []byte) ([]byte, error) {
			ret, err := f(s, args)
			return encode(b, ret, err)
		}, nil
	}}
}

// waiting makes a handler of a function that may wait for a driver or a disk. A nil reply is an empty one.
func waiting[A, R any](f func(ctx context.Context, s *session, args *A) (*R, error)) *handler {
	return &handler{waits: true, prepare: func(payload []byte) (action, error) {
		args, err := decode[A](payload)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, s *session, b []byte) ([]byte, error) {
			ret, err := f(ctx, s, args)
			return encode(b, ret, err)
		}, nil
	}}
}

// waitingFor makes a handler of a function that waits for the disk of the core and nothing else.
func waitingFor[A, R any](f func(s *session, args *A) (*R, error)) *handler {
	return waiting(func(_ context.Context, s *session, args *A) (*R, error) { return f(s, args) })
}

// order makes a handler of a function that may wait and has no reply.
func order[A any](f func(ctx context.Context, s *session, args *A) error) *handler {
	return waiting(func(ctx context.Context, s *session, args *A) (*void, error) { return nil, f(ctx, s, args) })
}

// hot makes a handler of a function that answers from memory and encodes its reply by itself.
func hot[A any](f func(s *session, args *A, b []byte) ([]byte, error)) *handler {
	return &handler{prepare: func(payload []byte) (action, error) {
		args, err := decode[A](payload)
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, s *session, b []byte) ([]byte, error) { return f(s, args, b) }, nil
	}}
}

// streaming makes a handler of a function that opens a device.
func streaming[A, R any](f func(ctx context.Context, s *session, args *A) (io.ReadWriteCloser, *R, error)) *handler {
	return &handler{waits: true, open: func(payload []byte) (opening, error) {
		args, err := decode[A](payload)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, s *session, b []byte) (io.ReadWriteCloser, []byte, error) {
			dev, ret, err := f(ctx, s, args)
			if err != nil {
				return nil, b, err
			}
			b, err = encode(b, ret, nil)
			return dev, b, err
		}, nil
	}}
}

func decode[A any](payload []byte) (*A, error) {
	args := new(A)
	if _, err := xdr.Unmarshal(payload, args); err != nil {
		return nil, verr.New(verr.RPC, "unable to decode message payload: %w", err).In(verr.FromRPC)
	}
	return args, nil
}

func encode[R any](b []byte, ret *R, err error) ([]byte, error) {
	if err != nil || ret == nil {
		return b, err
	}
	out, err := xdr.Append(b, ret)
	if err != nil {
		return b, verr.New(verr.RPC, "unable to encode message payload: %w", err).In(verr.FromRPC)
	}
	return out, nil
}
