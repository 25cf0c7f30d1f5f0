package domxml

import (
	"reflect"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// FindDevice finds the device of a list that a client means, as libvirt does: a disk by its target, a network card by what is given of its
// MAC, address and alias, a controller by type and index, a lease by lockspace and key, any other by all that is given of it. It fails
// with DeviceMissing if there is none, and with OperationFailed if several cards match.
func FindDevice(list *libvirtxml.DomainDeviceList, like Device) (Device, error) {
	found := MatchDevices(list, like)
	switch {
	case len(found) == 0:
		return Device{}, verr.New(verr.DeviceMissing, "%s", missing(like))
	case len(found) > 1 && like.Kind == "interface":
		return Device{}, verr.New(verr.OperationFailed, "multiple matching network interfaces found: name one by its MAC address or alias")
	}
	return found[0], nil
}

// FindAlias finds a device by the name that it has while the guest lives, or fails with DeviceMissing.
func FindAlias(list *libvirtxml.DomainDeviceList, alias string) (Device, error) {
	for _, d := range Devices(list) {
		if alias != "" && d.Alias() == alias {
			return d, nil
		}
	}
	return Device{}, verr.New(verr.DeviceMissing, "no device found with alias %s", alias)
}

// MatchDevices returns all devices of a list that FindDevice would choose from.
func MatchDevices(list *libvirtxml.DomainDeviceList, like Device) []Device {
	var found []Device
	for _, d := range Devices(list) {
		if d.Kind == like.Kind && matches(like, d) {
			found = append(found, d)
		}
	}
	return found
}

// missing says in libvirt's words that there is no such device.
func missing(like Device) string {
	switch v := like.Value.(type) {
	case *libvirtxml.DomainDisk:
		if v.Target != nil {
			return "disk " + v.Target.Dev + " not found"
		}
	case *libvirtxml.DomainInterface:
		if v.MAC != nil {
			return "no device matching MAC address " + v.MAC.Address + " found"
		}
	case *libvirtxml.DomainLease:
		return "Lease " + v.Key + " in lockspace " + v.Lockspace + " does not exist"
	}
	return "matching " + like.Kind + " device not found"
}

func matches(like, have Device) bool {
	if a, b := like.Alias(), have.Alias(); a != "" && b != "" && a != b {
		return false
	}
	switch want := like.Value.(type) {
	case *libvirtxml.DomainDisk:
		return target(want) != "" && target(want) == target(have.Value.(*libvirtxml.DomainDisk))
	case *libvirtxml.DomainInterface:
		card := have.Value.(*libvirtxml.DomainInterface)
		return sameMAC(want.MAC, card.MAC) && within(reflect.ValueOf(pciOf(want.Address)), reflect.ValueOf(pciOf(card.Address)))
	case *libvirtxml.DomainController:
		c := have.Value.(*libvirtxml.DomainController)
		return want.Type == c.Type && want.Index != nil && c.Index != nil && *want.Index == *c.Index
	case *libvirtxml.DomainLease:
		l := have.Value.(*libvirtxml.DomainLease)
		return want.Lockspace == l.Lockspace && want.Key == l.Key
	}
	return within(reflect.ValueOf(like.Value), reflect.ValueOf(have.Value))
}

func target(d *libvirtxml.DomainDisk) string {
	if d.Target == nil {
		return ""
	}
	return d.Target.Dev
}

// sameMAC reports whether an address is not asked for, or is the same.
func sameMAC(want, have *libvirtxml.DomainInterfaceMAC) bool {
	return want == nil || have != nil && strings.EqualFold(want.Address, have.Address)
}

// pciOf is the PCI part of an address, or nil.
func pciOf(a *libvirtxml.DomainAddress) *libvirtxml.DomainAddressPCI {
	if a == nil {
		return nil
	}
	return a.PCI
}

// within reports whether all that is set in one value is the same in another one of its type. Aliases are compared elsewhere.
func within(want, have reflect.Value) bool {
	switch want.Kind() {
	case reflect.Pointer:
		return want.IsNil() || !have.IsNil() && within(want.Elem(), have.Elem())
	case reflect.Slice:
		if want.Len() != have.Len() && want.Len() > 0 {
			return false
		}
		for i := range want.Len() {
			if !within(want.Index(i), have.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range want.NumField() {
			if name := want.Type().Field(i).Name; name == "XMLName" || name == "Alias" {
				continue
			}
			if !within(want.Field(i), have.Field(i)) {
				return false
			}
		}
		return true
	}
	return want.IsZero() || want.Equal(have)
}

// Difference names the first attribute or child that a device has set and another one of its kind has otherwise, or returns nothing. Some
// may be left out, by their names in XML; aliases are.
func Difference(want, have Device, but ...string) string {
	a, b := reflect.ValueOf(want.Value).Elem(), reflect.ValueOf(have.Value).Elem()
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("xml"), ",")
		if f.Name == "XMLName" || f.Name == "Alias" || slices.Contains(but, name) {
			continue
		}
		if !within(a.Field(i), b.Field(i)) {
			return name
		}
	}
	return ""
}
