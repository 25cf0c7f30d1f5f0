package xdr

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// plan is how a type is encoded and decoded.
type plan struct {
	enc func(b []byte, v reflect.Value) ([]byte, error)
	dec func(b []byte, v reflect.Value) ([]byte, error)
	// min is the size of the shortest encoding in bytes.
	min int
}

// plans holds what was worked out, by type: reflect.Type -> *plan.
var plans sync.Map

func planOf(t reflect.Type) (*plan, error) {
	if p, ok := plans.Load(t); ok {
		return p.(*plan), nil
	}
	p, err := (&builder{open: map[reflect.Type]bool{}}).build(t, 0)
	if err != nil {
		return nil, err
	}
	kept, _ := plans.LoadOrStore(t, p)
	return kept.(*plan), nil
}

// builder makes plans; open are the types under way, so that a recursive type is refused.
type builder struct{ open map[reflect.Type]bool }

// build makes the plan of a type; limit is from the field's tag, or 0.
func (bd *builder) build(t reflect.Type, limit int) (*plan, error) {
	if bd.open[t] {
		return nil, fmt.Errorf("recursive type %s: %w", t, ErrType)
	}
	if p, ok := scalars[t.Kind()]; ok {
		return p, nil
	}
	bd.open[t] = true
	defer delete(bd.open, t)
	switch t.Kind() {
	case reflect.String:
		return stringPlan(limit), nil
	case reflect.Struct:
		if isUnion(t) {
			return unionPlan(), nil
		}
		return bd.buildStruct(t)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return opaquePlan(limit), nil
		}
		return bd.buildSlice(t, limit)
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return fixedOpaquePlan(t.Len()), nil
		}
		return bd.buildArray(t)
	case reflect.Pointer:
		return bd.buildPointer(t)
	}
	return nil, fmt.Errorf("%s: %w", t, ErrType)
}

// field is one field of a struct.
type field struct {
	index int
	name  string
	plan  *plan
}

func (bd *builder) buildStruct(t reflect.Type) (*plan, error) {
	var fields []field
	p := &plan{}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		limit, err := limitOf(f)
		if err != nil {
			return nil, err
		}
		fp, err := bd.build(f.Type, limit)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		fields = append(fields, field{i, f.Name, fp})
		p.min += fp.min
	}
	p.enc = func(b []byte, v reflect.Value) (_ []byte, err error) {
		for i := range fields {
			if b, err = fields[i].plan.enc(b, v.Field(fields[i].index)); err != nil {
				return b, fmt.Errorf("field %s: %w", fields[i].name, err)
			}
		}
		return b, nil
	}
	p.dec = func(b []byte, v reflect.Value) (_ []byte, err error) {
		for i := range fields {
			if b, err = fields[i].plan.dec(b, v.Field(fields[i].index)); err != nil {
				return b, fmt.Errorf("field %s: %w", fields[i].name, err)
			}
		}
		return b, nil
	}
	return p, nil
}

// limitOf reads the tag `xdr:"max=N"`.
func limitOf(f reflect.StructField) (int, error) {
	tag, ok := f.Tag.Lookup("xdr")
	if !ok {
		return 0, nil
	}
	digits, ok := strings.CutPrefix(tag, "max=")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n <= 0 {
		return 0, fmt.Errorf("field %s: tag %q: %w", f.Name, tag, ErrType)
	}
	return n, nil
}

func (bd *builder) buildSlice(t reflect.Type, limit int) (*plan, error) {
	elem, err := bd.build(t.Elem(), 0)
	if err != nil {
		return nil, err
	}
	if elem.min == 0 {
		return nil, fmt.Errorf("%s: elements without size: %w", t, ErrType)
	}
	if limit == 0 {
		limit = MaxElements
	}
	if strings.HasPrefix(t.Name(), "Opt") {
		return &plan{min: 4, enc: sliceEncoder(elem, 1), dec: optDecoder(t, elem)}, nil
	}
	return &plan{min: 4, enc: sliceEncoder(elem, limit), dec: sliceDecoder(t, elem, limit)}, nil
}

func sliceEncoder(elem *plan, limit int) func([]byte, reflect.Value) ([]byte, error) {
	return func(b []byte, v reflect.Value) (_ []byte, err error) {
		n := v.Len()
		if n > limit {
			return b, fmt.Errorf("%d elements, at most %d: %w", n, limit, ErrLimit)
		}
		b = AppendUint32(b, uint32(n))
		for i := range n {
			if b, err = elem.enc(b, v.Index(i)); err != nil {
				return b, err
			}
		}
		return b, nil
	}
}

func sliceDecoder(t reflect.Type, elem *plan, limit int) func([]byte, reflect.Value) ([]byte, error) {
	return func(b []byte, v reflect.Value) ([]byte, error) {
		count, b, err := uint32At(b)
		if err != nil {
			return b, err
		}
		if uint64(count) > uint64(limit) {
			return b, fmt.Errorf("%d elements, at most %d: %w", count, limit, ErrLimit)
		}
		if uint64(count)*uint64(elem.min) > uint64(len(b)) {
			return b, fmt.Errorf("%d elements: %w", count, ErrShort)
		}
		n := int(count)
		if n == 0 {
			v.SetZero()
			return b, nil
		}
		s := reflect.MakeSlice(t, n, n)
		for i := range n {
			if b, err = elem.dec(b, s.Index(i)); err != nil {
				return b, fmt.Errorf("element %d: %w", i, err)
			}
		}
		v.Set(s)
		return b, nil
	}
}

// present reads whether an optional value follows. Like in C's XDR anything but zero is a yes: go-libvirt's OPEN says it with
// 0x01000000.
func present(b []byte) (bool, []byte, error) {
	n, b, err := uint32At(b)
	return n != 0, b, err
}

func optDecoder(t reflect.Type, elem *plan) func([]byte, reflect.Value) ([]byte, error) {
	return func(b []byte, v reflect.Value) ([]byte, error) {
		ok, b, err := present(b)
		if err != nil || !ok {
			v.SetZero()
			return b, err
		}
		s := reflect.MakeSlice(t, 1, 1)
		if b, err = elem.dec(b, s.Index(0)); err != nil {
			return b, err
		}
		v.Set(s)
		return b, nil
	}
}

func (bd *builder) buildArray(t reflect.Type) (*plan, error) {
	elem, err := bd.build(t.Elem(), 0)
	if err != nil {
		return nil, err
	}
	each := func(f func([]byte, reflect.Value) ([]byte, error)) func([]byte, reflect.Value) ([]byte, error) {
		return func(b []byte, v reflect.Value) (_ []byte, err error) {
			for i := range v.Len() {
				if b, err = f(b, v.Index(i)); err != nil {
					return b, err
				}
			}
			return b, nil
		}
	}
	return &plan{min: elem.min * t.Len(), enc: each(elem.enc), dec: each(elem.dec)}, nil
}

func (bd *builder) buildPointer(t reflect.Type) (*plan, error) {
	elem, err := bd.build(t.Elem(), 0)
	if err != nil {
		return nil, err
	}
	enc := func(b []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return AppendUint32(b, 0), nil
		}
		return elem.enc(AppendUint32(b, 1), v.Elem())
	}
	dec := func(b []byte, v reflect.Value) ([]byte, error) {
		ok, b, err := present(b)
		if err != nil || !ok {
			v.SetZero()
			return b, err
		}
		v.Set(reflect.New(t.Elem()))
		return elem.dec(b, v.Elem())
	}
	return &plan{min: 4, enc: enc, dec: dec}, nil
}
