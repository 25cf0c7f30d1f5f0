package xdr

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
)

type limited struct {
	Name string   `xdr:"max=4"`
	Data []byte   `xdr:"max=5"`
	List []uint32 `xdr:"max=2"`
}

type optional struct {
	P *uint32
}

type recursive struct {
	Next *recursive
}

func TestEncodesAsRFC4506(t *testing.T) {
	seven := uint32(7)
	for _, tc := range []struct {
		name string
		in   any
		want string
	}{
		{"a string is padded to four bytes", &struct{ S string }{"abcde"}, "\x00\x00\x00\x05abcde\x00\x00\x00"},
		{"an opaque is padded to four bytes", &struct{ B []byte }{[]byte{1}}, "\x00\x00\x00\x01\x01\x00\x00\x00"},
		{"a fixed opaque has no length", &struct{ B [4]byte }{[4]byte{1, 2, 3, 4}}, "\x01\x02\x03\x04"},
		{"a struct by value works too", struct{ B [2]byte }{[2]byte{1, 2}}, "\x01\x02\x00\x00"},
		{"a char takes four bytes", &struct{ C [2]int8 }{[2]int8{1, -1}}, "\x00\x00\x00\x01\xff\xff\xff\xff"},
		{"a short takes four bytes", &struct{ U uint16 }{258}, "\x00\x00\x01\x02"},
		{"a hyper takes eight bytes", &struct{ I int64 }{-2}, "\xff\xff\xff\xff\xff\xff\xff\xfe"},
		{"a double takes eight bytes", &struct{ F float64 }{1}, "\x3f\xf0\x00\x00\x00\x00\x00\x00"},
		{"a bool takes four bytes", &struct{ B bool }{true}, "\x00\x00\x00\x01"},
		{"an absent pointer is a zero", &optional{}, "\x00\x00\x00\x00"},
		{"a present pointer is a one and its value", &optional{&seven}, "\x00\x00\x00\x01\x00\x00\x00\x07"},
		{"an optional string is a slice", &struct{ S libvirt.OptString }{libvirt.OptString{"ab"}}, "\x00\x00\x00\x01\x00\x00\x00\x02ab\x00\x00"},
		{
			"a typed parameter is a union", &libvirt.TypedParam{Field: "f", Value: *libvirt.NewTypedParamValueUllong(9)},
			"\x00\x00\x00\x01f\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x09",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Append([]byte("x"), tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != "x"+tc.want {
				t.Fatalf("got %q, want %q", got, "x"+tc.want)
			}
			typ := reflect.TypeOf(tc.in)
			if typ.Kind() != reflect.Pointer {
				return
			}
			back := reflect.New(typ.Elem())
			rest, err := Unmarshal(append(got[1:], "rest"...), back.Interface())
			if err != nil || string(rest) != "rest" {
				t.Fatalf("decode: rest %q, error %v", rest, err)
			}
			if !reflect.DeepEqual(back.Interface(), tc.in) {
				t.Fatalf("decoded %+v, want %+v", back.Interface(), tc.in)
			}
		})
	}
}

func TestNodeInfoTakes160Bytes(t *testing.T) {
	b, err := Append(nil, &libvirt.NodeGetInfoRet{})
	if err != nil || len(b) != 160 {
		t.Fatalf("%d bytes, error %v", len(b), err)
	}
}

func TestAnythingButZeroIsAYes(t *testing.T) {
	var v struct {
		S libvirt.OptString
		P *uint32
		B bool
	}
	in := "\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00" + "\x00\x00\x00\x02\x00\x00\x00\x09" + "\xff\xff\xff\xff"
	rest, err := Unmarshal([]byte(in), &v)
	if err != nil || len(rest) != 0 || len(v.S) != 1 || v.S[0] != "a" || v.P == nil || *v.P != 9 || !v.B {
		t.Fatalf("%+v, rest %q, error %v", v, rest, err)
	}
}

func TestRefusesBadInput(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		into any
		want error
	}{
		{"a string longer than the input", "\x00\x00\x00\x09abc", &struct{ S string }{}, ErrShort},
		{"a string without its padding", "\x00\x00\x00\x01a", &struct{ S string }{}, ErrShort},
		{"a string above four mebibytes", "\x00\x40\x00\x01", &struct{ S string }{}, ErrLimit},
		{"a length of all ones", "\xff\xff\xff\xff", &struct{ B []byte }{}, ErrLimit},
		{"a string with a nul", "\x00\x00\x00\x02a\x00\x00\x00", &struct{ S string }{}, ErrInvalid},
		{"a string above its tag", "\x00\x00\x00\x05abcde\x00\x00\x00", &limited{}, ErrLimit},
		{"an opaque above its tag", "\x00\x00\x00\x00\x00\x00\x00\x06abcdef\x00\x00", &limited{}, ErrLimit},
		{"an array above its tag", strings.Repeat("\x00", 8) + "\x00\x00\x00\x03" + strings.Repeat("\x00", 12), &limited{}, ErrLimit},
		{"a count that the input cannot hold", "\x00\x03\x00\x00\x00\x00\x00\x00", &struct{ L []libvirt.Domain }{}, ErrShort},
		{"a count above the general limit", "\x00\x04\x00\x01", &struct{ L []uint32 }{}, ErrLimit},
		{"an optional that is announced and not there", "\x00\x00\x00\x01", &struct{ S libvirt.OptString }{}, ErrShort},
		{"a pointer that is announced and not there", "\x00\x00\x00\x01", &optional{}, ErrShort},
		{"a char out of range", "\x00\x00\x01\x00", &struct{ B uint8 }{}, ErrInvalid},
		{"an unknown discriminant", "\x00\x00\x00\x08\x00\x00\x00\x00", &libvirt.TypedParamValue{}, ErrInvalid},
		{"a union without an arm", "\x00\x00\x00\x07", &libvirt.TypedParamValue{}, ErrShort},
		{"a recursive type", "\x00\x00\x00\x01", &recursive{}, ErrType},
		{"a type without a place in xdr", "\x00\x00\x00\x01", &struct{ C chan int }{}, ErrType},
		{"a value that is no pointer", "\x00\x00\x00\x01", optional{}, ErrType},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Unmarshal([]byte(tc.in), tc.into); !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestEveryTruncationIsShort(t *testing.T) {
	in := libvirt.DomainSetMetadataArgs{
		Dom: libvirt.Domain{Name: "guest", ID: -1}, Type: 2, Metadata: libvirt.OptString{"<a/>"}, Uri: libvirt.OptString{"u"},
	}
	b, err := Append(nil, &in)
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		var out libvirt.DomainSetMetadataArgs
		if _, err := Unmarshal(b[:n], &out); !errors.Is(err, ErrShort) {
			t.Fatalf("%d of %d bytes: error %v", n, len(b), err)
		}
	}
}

func TestAppendLeavesTheBufferAloneOnError(t *testing.T) {
	b, err := Append([]byte("x"), &limited{Name: "abcd", Data: make([]byte, 6)})
	if !errors.Is(err, ErrLimit) || string(b) != "x" {
		t.Fatalf("buffer %q, error %v", b, err)
	}
	if _, err := Append(nil, &libvirt.TypedParamValue{D: 1, I: "text"}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("arm of the wrong type: error %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	seed, err := Append(nil, &everything{Params: []libvirt.TypedParam{{Field: "f", Value: *libvirt.NewTypedParamValueString("v")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var v everything
		rest, err := Unmarshal(in, &v)
		if err != nil {
			return
		}
		out, err := Append(nil, &v)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		var again everything
		if _, err := Unmarshal(out, &again); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		twice, err := Append(nil, &again)
		if err != nil || !bytes.Equal(out, twice) || len(out) != len(in)-len(rest) {
			t.Fatalf("not stable: %x and %x of %x", out, twice, in)
		}
	})
}

// everything has a field of each kind.
type everything struct {
	Dom    libvirt.Domain
	Opt    libvirt.OptDomain
	Params []libvirt.TypedParam
	Names  []string
	Raw    []byte `xdr:"max=64"`
	Chars  [3]int8
	Label  []int8
	P      *optional
	F      float64
	B      bool
	U      uint16
}

func BenchmarkAppendArgs(b *testing.B) {
	args := libvirt.DomainDefineXMLFlagsArgs{XML: "<domain/>", Flags: 1}
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(buf, &args); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshalDomain(b *testing.B) {
	in, err := Append(nil, &libvirt.DomainGetXMLDescArgs{Dom: libvirt.Domain{Name: "guest", ID: 3}})
	if err != nil {
		b.Fatal(err)
	}
	var out libvirt.DomainGetXMLDescArgs
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unmarshal(in, &out); err != nil {
			b.Fatal(err)
		}
	}
}
