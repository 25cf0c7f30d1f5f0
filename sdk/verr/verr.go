// Package verr makes, carries and reads libvirt's errors.
//
// A driver's author writes
//
//	return verr.New(verr.ConfigUnsupported, "disk bus %q is not supported by this driver", bus)
//
// and the client's user sees libvirt's code and that sentence. The error crosses gRPC as a status with a VirError detail.
// Errors that are no verr.Error get a code from their gRPC status, or Internal. All functions are safe concurrently.
//
// Numbers are those of libvirt's public header <libvirt/virterror.h>.
package verr

import (
	"errors"
	"fmt"
)

// Error is an error as libvirt's clients know it.
type Error struct {
	// Code is libvirt's virErrorNumber.
	Code Code
	// Domain is libvirt's virErrorDomain; 0 lets the core put in the domain of the object or driver.
	Domain Domain
	// Message is a sentence for a person, without the prefix that libvirt prints for each code.
	Message string
	// Errno is the system's error number for code SystemError, else 0.
	Errno int
	cause error
}

// New returns an error with a code and a formatted message. A %w in the format keeps the cause for errors.Is.
func New(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// In returns a copy of the error in another domain.
func (e *Error) In(domain Domain) *Error {
	c := *e
	c.Domain = domain
	return &c
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause given to New by %w, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an Error of the same code without a message: errors.Is(err, verr.NoDomain) is written
// errors.Is(err, &verr.Error{Code: verr.NoDomain}), or shorter verr.Is(err, verr.NoDomain).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Is reports whether err is or wraps an Error with the code.
func Is(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
