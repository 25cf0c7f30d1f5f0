package verr

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// MaxMessage bounds a message that crosses the boundary, in bytes; longer ones are cut.
const MaxMessage = 16 << 10

// byCode is the gRPC code that goes with a libvirt code, for tools that look at nothing else.
var byCode = map[Code]codes.Code{
	NoSupport: codes.Unimplemented, InvalidArg: codes.InvalidArgument, XMLError: codes.InvalidArgument,
	XMLInvalidSchema: codes.InvalidArgument, NoDomain: codes.NotFound, DomainExists: codes.AlreadyExists,
	OperationInvalid: codes.FailedPrecondition, OperationTimeout: codes.DeadlineExceeded,
	OperationAborted: codes.Aborted, AccessDenied: codes.PermissionDenied, AuthFailed: codes.Unauthenticated,
	ResourceBusy: codes.ResourceExhausted,
}

// byStatus is the libvirt code for a status without a detail.
var byStatus = map[codes.Code]Code{
	codes.Unimplemented: NoSupport, codes.InvalidArgument: InvalidArg, codes.NotFound: NoDomain,
	codes.AlreadyExists: DomainExists, codes.FailedPrecondition: OperationInvalid,
	codes.DeadlineExceeded: OperationTimeout, codes.Aborted: OperationAborted, codes.Canceled: OperationAborted,
	codes.PermissionDenied: AccessDenied, codes.Unauthenticated: AuthFailed, codes.ResourceExhausted: ResourceBusy,
	codes.Unavailable: OperationFailed,
}

// Status turns any error into a gRPC status error that carries it. A nil error stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		if _, ok := status.FromError(err); ok {
			return err
		}
		e = From(err)
	}
	code, ok := byCode[e.Code]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, clip(e.Message))
	detailed, derr := st.WithDetails(&basev1.VirError{
		Code: int32(e.Code), Domain: int32(e.Domain), Message: clip(e.Message), Errno: int32(e.Errno),
	})
	if derr != nil {
		return st.Err()
	}
	return detailed.Err()
}

// From reads any error as a libvirt error: an Error as it is, a gRPC status by its detail or its code, a system error as
// SystemError, an expired context as OperationTimeout, all else as Internal. From(nil) is nil. Numbers out of libvirt's
// range, which only a broken plugin sends, become Internal.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if st, ok := status.FromError(err); ok {
		return fromStatus(st, err)
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: OperationTimeout, Message: err.Error(), cause: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: OperationAborted, Message: err.Error(), cause: err}
	case errors.As(err, &errno), errors.Is(err, fs.ErrNotExist):
		return &Error{Code: SystemError, Message: err.Error(), Errno: int(errno), cause: err}
	}
	return &Error{Code: Internal, Message: err.Error(), cause: err}
}

func fromStatus(st *status.Status, cause error) *Error {
	for _, d := range st.Details() {
		v, ok := d.(*basev1.VirError)
		if !ok || v.Code <= 0 || Code(v.Code) > maxCode || v.Domain < 0 || Domain(v.Domain) > maxDomain {
			continue
		}
		return &Error{
			Code: Code(v.Code), Domain: Domain(v.Domain), Message: clip(v.Message), Errno: int(v.Errno), cause: cause,
		}
	}
	code, ok := byStatus[st.Code()]
	if !ok {
		code = Internal
	}
	return &Error{Code: code, Message: clip(st.Message()), cause: cause}
}

func clip(s string) string {
	if len(s) > MaxMessage {
		return s[:MaxMessage]
	}
	return s
}
