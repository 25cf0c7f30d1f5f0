package domxml

import (
	"bytes"
	"encoding/xml"
	"reflect"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Device is one device of a definition.
type Device struct {
	// Kind is the name of its element: "disk", "interface", "lease".
	Kind string
	// Value points to it in libvirtxml's type: *libvirtxml.DomainDisk, *libvirtxml.DomainInterface, ...
	Value any
}

// ParseDevice reads one element as it stands below <devices>. It fails with XMLError as Parse does, and with ConfigUnsupported for an
// element that is no device.
func ParseDevice(doc string) (Device, error) {
	if err := Check(doc, ""); err != nil {
		return Device{}, err
	}
	if err := checkCiphers(doc); err != nil {
		return Device{}, err
	}
	list := &libvirtxml.DomainDeviceList{}
	// On the line of what it encloses, so that numbers of lines stay as they are.
	decoder := xml.NewDecoder(strings.NewReader("<devices>" + withoutDeclaration(doc) + "</devices>"))
	if err := decoder.Decode(list); err != nil {
		line, _ := decoder.InputPos()
		return Device{}, verr.New(verr.XMLError, "line %d: %w", line, err)
	}
	all := Devices(list)
	if len(all) != 1 {
		return Device{}, verr.New(verr.ConfigUnsupported, "unknown device type '%s'", rootOf(doc))
	}
	return all[0], nil
}

// rootOf is the name of a document's root.
func rootOf(doc string) string {
	o, err := readOutline(doc)
	if err != nil {
		return ""
	}
	return o.root.name
}

// XML prints the device as libvirt does.
func (d Device) XML() (string, error) {
	var b bytes.Buffer
	e := xml.NewEncoder(&b)
	if err := e.EncodeElement(d.Value, xml.StartElement{Name: xml.Name{Local: d.Kind}}); err != nil {
		return "", verr.New(verr.Internal, "print %s: %w", d.Kind, err)
	}
	if err := e.Flush(); err != nil {
		return "", verr.New(verr.Internal, "print %s: %w", d.Kind, err)
	}
	return Reformat(b.String())
}

// Alias is the name that the device has while the guest lives, or empty.
func (d Device) Alias() string {
	if a, ok := field[*libvirtxml.DomainAlias](d.Value, "Alias"); ok && a != nil {
		return a.Name
	}
	return ""
}

// Address is where the device is plugged in, or nil.
func (d Device) Address() *libvirtxml.DomainAddress {
	a, _ := field[*libvirtxml.DomainAddress](d.Value, "Address")
	return a
}

// field returns a field of what value points to.
func field[T any](value any, name string) (T, bool) {
	var none T
	f := reflect.ValueOf(value).Elem().FieldByName(name)
	if !f.IsValid() {
		return none, false
	}
	v, ok := f.Interface().(T)
	return v, ok
}

// Devices returns the devices of a list, kind by kind in its order. They point into the list. A nil list has none.
func Devices(list *libvirtxml.DomainDeviceList) []Device {
	var all []Device
	if list == nil {
		return nil
	}
	v := reflect.ValueOf(list).Elem()
	for i := range v.NumField() {
		kind := kindOf(v.Type().Field(i))
		switch f := v.Field(i); {
		case kind == "":
		case f.Kind() == reflect.Slice:
			for n := range f.Len() {
				all = append(all, Device{kind, f.Index(n).Addr().Interface()})
			}
		case !f.IsNil():
			all = append(all, Device{kind, f.Interface()})
		}
	}
	return all
}

// kindOf is the element that a field of a list holds, or empty if it is no device.
func kindOf(f reflect.StructField) string {
	if k := f.Type.Kind(); k != reflect.Slice && k != reflect.Pointer {
		return ""
	}
	return strings.TrimSuffix(f.Tag.Get("xml"), "-")
}

// fieldOf returns the field of a list that holds a kind of device.
func fieldOf(list *libvirtxml.DomainDeviceList, kind string) reflect.Value {
	v := reflect.ValueOf(list).Elem()
	for i := range v.NumField() {
		if kindOf(v.Type().Field(i)) == kind && kind != "" {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// AddDevice puts a copy of a device behind the others of its kind and returns it in its place. It fails with OperationInvalid if a domain
// can have only one of the kind and has it.
func AddDevice(list *libvirtxml.DomainDeviceList, d Device) (Device, error) {
	f := fieldOf(list, d.Kind)
	switch {
	case !f.IsValid():
		return Device{}, verr.New(verr.Internal, "no domain has devices of kind %q", d.Kind)
	case f.Kind() == reflect.Slice:
		f.Set(reflect.Append(f, reflect.ValueOf(d.Value).Elem()))
		return Device{d.Kind, f.Index(f.Len() - 1).Addr().Interface()}, nil
	case !f.IsNil():
		return Device{}, verr.New(verr.OperationInvalid, "domain already has a %s", d.Kind)
	}
	own := reflect.New(f.Type().Elem())
	own.Elem().Set(reflect.ValueOf(d.Value).Elem())
	f.Set(own)
	return Device{d.Kind, own.Interface()}, nil
}

// RemoveDevice takes out a device that Devices, AddDevice or FindDevice has returned for the list. What points into the list behind it
// then points to something else.
func RemoveDevice(list *libvirtxml.DomainDeviceList, d Device) {
	f := fieldOf(list, d.Kind)
	if f.Kind() == reflect.Pointer {
		f.SetZero()
		return
	}
	for n := range f.Len() {
		if f.Index(n).Addr().Interface() == d.Value {
			f.Set(reflect.AppendSlice(f.Slice(0, n), f.Slice(n+1, f.Len())))
			return
		}
	}
}
