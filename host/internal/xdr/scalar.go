package xdr

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
)

// scalars are the plans of numbers and booleans.
var scalars = map[reflect.Kind]*plan{
	reflect.Bool:    {min: 4, enc: encBool, dec: decBool},
	reflect.Int8:    {min: 4, enc: encInt32, dec: decInt32},
	reflect.Int16:   {min: 4, enc: encInt32, dec: decInt32},
	reflect.Int32:   {min: 4, enc: encInt32, dec: decInt32},
	reflect.Uint8:   {min: 4, enc: encUint32, dec: decUint32},
	reflect.Uint16:  {min: 4, enc: encUint32, dec: decUint32},
	reflect.Uint32:  {min: 4, enc: encUint32, dec: decUint32},
	reflect.Int64:   {min: 8, enc: encInt64, dec: decInt64},
	reflect.Uint64:  {min: 8, enc: encUint64, dec: decUint64},
	reflect.Float64: {min: 8, enc: encFloat64, dec: decFloat64},
}

func encBool(b []byte, v reflect.Value) ([]byte, error) {
	if v.Bool() {
		return AppendUint32(b, 1), nil
	}
	return AppendUint32(b, 0), nil
}

func decBool(b []byte, v reflect.Value) ([]byte, error) {
	yes, b, err := present(b)
	v.SetBool(yes)
	return b, err
}

func encInt32(b []byte, v reflect.Value) ([]byte, error) {
	return AppendUint32(b, uint32(v.Int())), nil
}

func decInt32(b []byte, v reflect.Value) ([]byte, error) {
	n, b, err := uint32At(b)
	if err != nil {
		return b, err
	}
	if v.OverflowInt(int64(int32(n))) {
		return b, fmt.Errorf("%s %d: %w", v.Kind(), int32(n), ErrInvalid)
	}
	v.SetInt(int64(int32(n)))
	return b, nil
}

func encUint32(b []byte, v reflect.Value) ([]byte, error) {
	return AppendUint32(b, uint32(v.Uint())), nil
}

func decUint32(b []byte, v reflect.Value) ([]byte, error) {
	n, b, err := uint32At(b)
	if err != nil {
		return b, err
	}
	if v.OverflowUint(uint64(n)) {
		return b, fmt.Errorf("%s %d: %w", v.Kind(), n, ErrInvalid)
	}
	v.SetUint(uint64(n))
	return b, nil
}

func encInt64(b []byte, v reflect.Value) ([]byte, error) {
	return AppendUint64(b, uint64(v.Int())), nil
}

func decInt64(b []byte, v reflect.Value) ([]byte, error) {
	n, b, err := uint64At(b)
	if err == nil {
		v.SetInt(int64(n))
	}
	return b, err
}

func encUint64(b []byte, v reflect.Value) ([]byte, error) { return AppendUint64(b, v.Uint()), nil }

func decUint64(b []byte, v reflect.Value) ([]byte, error) {
	n, b, err := uint64At(b)
	if err == nil {
		v.SetUint(n)
	}
	return b, err
}

func encFloat64(b []byte, v reflect.Value) ([]byte, error) {
	return AppendUint64(b, math.Float64bits(v.Float())), nil
}

func decFloat64(b []byte, v reflect.Value) ([]byte, error) {
	n, b, err := uint64At(b)
	if err == nil {
		v.SetFloat(math.Float64frombits(n))
	}
	return b, err
}

// stringPlan encodes strings. One with a NUL is refused when decoded, since no C program can have meant it.
func stringPlan(limit int) *plan {
	if limit == 0 || limit > MaxString {
		limit = MaxString
	}
	enc := func(b []byte, v reflect.Value) ([]byte, error) {
		s := v.String()
		if len(s) > limit {
			return b, fmt.Errorf("string of %d bytes, at most %d: %w", len(s), limit, ErrLimit)
		}
		return AppendString(b, s), nil
	}
	dec := func(b []byte, v reflect.Value) ([]byte, error) {
		s, b, err := StringAt(b, limit)
		if err == nil {
			v.SetString(s)
		}
		return b, err
	}
	return &plan{min: 4, enc: enc, dec: dec}
}

// StringAt splits a string of at most limit bytes off, as Unmarshal does it, for hot paths that cannot afford reflection.
func StringAt(b []byte, limit int) (s string, rest []byte, err error) {
	data, rest, err := countedAt(b, limit)
	if err != nil {
		return "", b, err
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return "", b, fmt.Errorf("string with a nul byte: %w", ErrInvalid)
	}
	return string(data), rest, nil
}

// opaquePlan encodes byte slices; without a limit the input's size is the bound.
func opaquePlan(limit int) *plan {
	if limit == 0 {
		limit = math.MaxInt32
	}
	enc := func(b []byte, v reflect.Value) ([]byte, error) {
		data := v.Bytes()
		if len(data) > limit {
			return b, fmt.Errorf("opaque of %d bytes, at most %d: %w", len(data), limit, ErrLimit)
		}
		b = AppendUint32(b, uint32(len(data)))
		return pad(append(b, data...), len(data)), nil
	}
	dec := func(b []byte, v reflect.Value) ([]byte, error) {
		data, b, err := countedAt(b, limit)
		if err != nil {
			return b, err
		}
		v.SetBytes(bytes.Clone(data))
		return b, nil
	}
	return &plan{min: 4, enc: enc, dec: dec}
}

// countedAt splits a length and that many bytes off.
func countedAt(b []byte, limit int) (data, rest []byte, err error) {
	n, b, err := uint32At(b)
	if err != nil {
		return nil, b, err
	}
	if uint64(n) > uint64(limit) {
		return nil, b, fmt.Errorf("%d bytes, at most %d: %w", n, limit, ErrLimit)
	}
	return opaqueAt(b, int(n))
}

func fixedOpaquePlan(n int) *plan {
	enc := func(b []byte, v reflect.Value) ([]byte, error) {
		if v.CanAddr() {
			return pad(append(b, v.Slice(0, n).Bytes()...), n), nil
		}
		for i := range n {
			b = append(b, byte(v.Index(i).Uint()))
		}
		return pad(b, n), nil
	}
	dec := func(b []byte, v reflect.Value) ([]byte, error) {
		data, b, err := opaqueAt(b, n)
		if err == nil {
			copy(v.Slice(0, n).Bytes(), data)
		}
		return b, err
	}
	return &plan{min: n + (-n & 3), enc: enc, dec: dec}
}
