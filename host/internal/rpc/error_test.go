package rpc

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestErrorsReadAsLibvirtWritesThem(t *testing.T) {
	for _, tc := range []struct {
		name    string
		err     error
		code    verr.Code
		domain  verr.Domain
		message string
	}{
		{"a missing domain", verr.New(verr.NoDomain, "no domain with matching name 'x'"), 42, 20, "Domain not found: no domain with matching name 'x'"},
		{"an error's own domain wins", verr.New(verr.Internal, "x").In(verr.FromQEMU), 1, 10, "internal error: x"},
		{"the phrase is not doubled", verr.New(verr.NoSupport, "this function is not supported by the connection driver"), 3, 20, "this function is not supported by the connection driver"},
		{"a phrase without a colon", verr.New(verr.NoConnect, "foo:///"), 5, 20, "no connection driver available for foo:///"},
		{"a system error has no phrase", fmt.Errorf("open image: %w", syscall.ENOENT), 38, 20, "open image: no such file or directory"},
		{"a code without phrase or message", &verr.Error{Code: 97}, 97, 20, "error 97"},
		{"a message without content", &verr.Error{Code: verr.NoDomain}, 42, 20, "Domain not found"},
		{"a nul cannot cut the message", verr.New(verr.RPC, "a\x00b"), 39, 20, "ab"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := NewError(tc.err, verr.FromDomain).Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			e, err := ParseError(b)
			if err != nil {
				t.Fatal(err)
			}
			if e.Code != int32(tc.code) || e.Domain != int32(tc.domain) || *e.Message != tc.message || e.Level != 2 {
				t.Fatalf("code %d domain %d level %d message %q", e.Code, e.Domain, e.Level, *e.Message)
			}
			if back := verr.From(e.Err()); back.Code != tc.code || back.Message != tc.message {
				t.Fatalf("read back as %+v", back)
			}
		})
	}
	if e := NewError(syscall.EBUSY, 0); e.Int1 != int32(syscall.EBUSY) {
		t.Fatalf("int1 %d is not the errno", e.Int1)
	}
}

func TestParseErrorRefusesGarbage(t *testing.T) {
	if _, err := ParseError([]byte("\x00\x00\x00\x01")); err == nil {
		t.Fatal("no error")
	}
}
