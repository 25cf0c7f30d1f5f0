package cmdline

import (
	"reflect"

	"libvirt.org/go/libvirtxml"
)

// Clone returns a deep copy of a domain.
func Clone(d *libvirtxml.Domain) *libvirtxml.Domain {
	return copyValue(reflect.ValueOf(d)).Interface().(*libvirtxml.Domain)
}

// copyValue copies what libvirtxml is made of: structs, pointers, slices and plain values.
func copyValue(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		p := reflect.New(v.Type().Elem())
		p.Elem().Set(copyValue(v.Elem()))
		return p
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		s := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			s.Index(i).Set(copyValue(v.Index(i)))
		}
		return s
	case reflect.Struct:
		s := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			s.Field(i).Set(copyValue(v.Field(i)))
		}
		return s
	}
	return v
}
