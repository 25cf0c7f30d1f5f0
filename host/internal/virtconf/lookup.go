package virtconf

import (
	"fmt"
	"strconv"
	"strings"
)

// Uint stores the number of a setting, unless the file does not set it. It may have a plus sign and leading zeros.
func (f *File) Uint(name string, into *uint32) error {
	a := f.find(name)
	if a == nil {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(a.Value.Text, "+"), 10, 32)
	if a.Value.Kind != Number || err != nil {
		return f.At(name, fmt.Errorf("%s, expected a number from 0 to 4294967295", a.Value.shown()))
	}
	*into = uint32(n)
	return nil
}

// Bool stores whether a setting is 1, unless the file does not set it.
func (f *File) Bool(name string, into *bool) error {
	a := f.find(name)
	if a == nil {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(a.Value.Text, "+"), 10, 1)
	if a.Value.Kind != Number || err != nil {
		return f.At(name, fmt.Errorf("%s, expected 0 or 1", a.Value.shown()))
	}
	*into = n == 1
	return nil
}

// Text stores the string of a setting, unless the file does not set it.
func (f *File) Text(name string, into *string) error {
	a := f.find(name)
	if a == nil {
		return nil
	}
	if a.Value.Kind != String {
		return f.At(name, fmt.Errorf("%s, expected a string in quotes", a.Value.shown()))
	}
	*into = a.Value.Text
	return nil
}

// shown is a value for a message.
func (v Value) shown() string {
	const most = 40
	text := v.Text
	if len(text) > most {
		text = text[:most] + "..."
	}
	switch v.Kind {
	case Number:
		return text + " is given"
	case String:
		return fmt.Sprintf("the string %q is given", text)
	case List:
	}
	return v.Kind.String() + " is given"
}
