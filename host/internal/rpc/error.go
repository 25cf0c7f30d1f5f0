package rpc

import (
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// LevelError is the level of every error that is sent.
const LevelError = 2

// Error is the payload of a frame with status Failed.
type Error struct {
	Code    int32
	Domain  int32
	Message *string
	Level   int32
	Dom     *DomainRef
	Str1    *string
	Str2    *string
	Str3    *string
	Int1    int32
	Int2    int32
	Net     *NetworkRef
}

// DomainRef names a domain; errors of today carry none.
type DomainRef struct {
	Name string
	UUID [16]byte
	ID   int32
}

// NetworkRef names a network; errors of today carry none.
type NetworkRef struct {
	Name string
	UUID [16]byte
}

// NewError makes the payload for any error but nil, by verr.From. Its message gets the phrase that libvirt's users see for the code,
// and domain goes in if the error names none itself.
func NewError(err error, domain verr.Domain) *Error {
	e := verr.From(err)
	if e.Domain != verr.FromNone {
		domain = e.Domain
	}
	format, message := phrase(e.Code, clean(e.Message))
	detail := clean(e.Message)
	return &Error{
		Code: int32(e.Code), Domain: int32(domain), Level: LevelError,
		Message: &message, Str1: &format, Str2: &detail, Int1: int32(e.Errno), Int2: -1,
	}
}

// Err reads a received payload as an error of package verr, with the message as the peer wrote it.
func (e *Error) Err() error {
	out := &verr.Error{Code: verr.Code(e.Code), Domain: verr.Domain(e.Domain)}
	if e.Message != nil {
		out.Message = *e.Message
	}
	if out.Code == verr.SystemError {
		out.Errno = int(e.Int1)
	}
	return out
}

// Append appends the encoded payload.
func (e *Error) Append(b []byte) ([]byte, error) { return xdr.Append(b, e) }

// ParseError decodes the payload of a frame with status Failed.
func ParseError(payload []byte) (*Error, error) {
	var e Error
	if _, err := xdr.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("decode error payload: %w", err)
	}
	return &e, nil
}

// clean makes a message fit for the wire: no NUL, and of bounded size.
func clean(s string) string {
	if len(s) > verr.MaxMessage {
		s = s[:verr.MaxMessage]
	}
	return strings.ReplaceAll(s, "\x00", "")
}

// phrase returns the format and the message for a code. A message that begins with the phrase already stays as it is.
func phrase(code verr.Code, detail string) (format, message string) {
	p := phrases[code]
	switch {
	case p == "" && detail == "":
		return "%s", fmt.Sprintf("error %d", code)
	case p == "":
		return "%s", detail
	case detail == "":
		return p, p
	case strings.HasPrefix(detail, p):
		return "%s", detail
	case code == verr.NoConnect || code == verr.UnknownHost:
		return p + " %s", p + " " + detail
	}
	return p + ": %s", p + ": " + detail
}
