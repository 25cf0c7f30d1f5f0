package vmx

import (
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// reader reads typed entries of a file. It keeps the first error, so that a device is read in one go and checked at its end.
type reader struct {
	file *File
	ctx  Context
	err  error
}

// fail keeps an error.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// expect keeps the error for an entry whose value is none that it can have.
func (r *reader) expect(key, what string) {
	value, _ := r.file.Get(key)
	r.fail(verr.New(verr.Internal, "Expecting VMX entry '%s' to be %s but found '%s'", key, what, value))
}

// text returns a value, "" without the entry.
func (r *reader) text(key string) string {
	value, _ := r.file.Get(key)
	return value
}

// must returns a value that has to be there.
func (r *reader) must(key string) string {
	value, ok := r.file.Get(key)
	if !ok {
		r.fail(verr.New(verr.Internal, "Missing essential config entry '%s'", key))
	}
	return value
}

// flag returns a boolean.
func (r *reader) flag(key string, otherwise bool) bool {
	value, ok := r.file.Get(key)
	switch {
	case !ok:
		return otherwise
	case strings.EqualFold(value, "true"):
		return true
	case strings.EqualFold(value, "false"):
		return false
	}
	r.expect(key, "'true' or 'false'")
	return otherwise
}

// number returns an integer; "unlimited" is -1.
func (r *reader) number(key string, otherwise int64) int64 {
	value, ok := r.file.Get(key)
	if !ok {
		return otherwise
	}
	if strings.EqualFold(value, "unlimited") {
		return -1
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		r.expect(key, "a number")
		return otherwise
	}
	return n
}

// within returns an integer of a range.
func (r *reader) within(key string, otherwise, low, high int64) int64 {
	n := r.number(key, otherwise)
	if n < low || n > high {
		r.expect(key, "a number from "+strconv.FormatInt(low, 10)+" to "+strconv.FormatInt(high, 10))
		return otherwise
	}
	return n
}

// source translates a file's name.
func (r *reader) source(key, file string) string {
	source, err := r.ctx.Names.Source(file)
	if err != nil {
		r.fail(verr.New(verr.Internal, "VMX entry '%s': %w", key, err))
	}
	return source
}
