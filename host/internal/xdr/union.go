package xdr

import (
	"fmt"
	"reflect"
)

// arms are the types of libvirt's typed parameters by discriminant: int, unsigned int, hyper, unsigned hyper, double, boolean (an
// int) and string, as virTypedParameterType numbers them.
var arms = map[uint32]reflect.Type{
	1: reflect.TypeFor[int32](),
	2: reflect.TypeFor[uint32](),
	3: reflect.TypeFor[int64](),
	4: reflect.TypeFor[uint64](),
	5: reflect.TypeFor[float64](),
	6: reflect.TypeFor[int32](),
	7: reflect.TypeFor[string](),
}

// unionPlan encodes the value of a typed parameter: the discriminant D and the arm I.
func unionPlan() *plan { return &plan{min: 8, enc: encUnion, dec: decUnion} }

// isUnion reports whether a struct is a typed parameter's value: struct{ D uint32; I any }.
func isUnion(t reflect.Type) bool {
	return t.NumField() == 2 && t.Field(0).Name == "D" && t.Field(0).Type.Kind() == reflect.Uint32 &&
		t.Field(1).Name == "I" && t.Field(1).Type == reflect.TypeFor[any]()
}

func encUnion(b []byte, v reflect.Value) ([]byte, error) {
	d := uint32(v.Field(0).Uint())
	arm, ok := arms[d]
	if !ok {
		return b, fmt.Errorf("discriminant %d: %w", d, ErrInvalid)
	}
	val := v.Field(1).Elem()
	if !val.IsValid() || val.Type() != arm {
		return b, fmt.Errorf("arm of discriminant %d is no %s: %w", d, arm, ErrInvalid)
	}
	p, err := planOf(arm)
	if err != nil {
		return b, err
	}
	return p.enc(AppendUint32(b, d), val)
}

func decUnion(b []byte, v reflect.Value) ([]byte, error) {
	d, b, err := uint32At(b)
	if err != nil {
		return b, err
	}
	arm, ok := arms[d]
	if !ok {
		return b, fmt.Errorf("discriminant %d: %w", d, ErrInvalid)
	}
	p, err := planOf(arm)
	if err != nil {
		return b, err
	}
	val := reflect.New(arm).Elem()
	if b, err = p.dec(b, val); err != nil {
		return b, err
	}
	v.Field(0).SetUint(uint64(d))
	v.Field(1).Set(val)
	return b, nil
}
