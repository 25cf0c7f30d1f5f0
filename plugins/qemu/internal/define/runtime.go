package define

import (
	"reflect"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// userAlias is how an alias begins that belongs to the user and so is kept in a definition.
const userAlias = "ua-"

// forgetRuntime drops what only a living guest has, so that the XML of a living guest can be defined again.
func forgetRuntime(c *completion) error {
	forgetLabels(c.d)
	c.d.ID = nil
	for list := range deviceLists(c.dev) {
		for i := range list.Len() {
			forgetDevice(list.Index(i))
		}
	}
	if c.dev.MemBalloon != nil {
		forgetDevice(reflect.ValueOf(c.dev.MemBalloon).Elem())
	}
	if c.dev.VSock != nil {
		forgetDevice(reflect.ValueOf(c.dev.VSock).Elem())
	}
	for i := range c.dev.Consoles {
		c.dev.Consoles[i].TTY = ""
	}
	for i := range c.dev.Disks {
		if s := c.dev.Disks[i].Source; s != nil {
			s.Index = 0
		}
	}
	return nil
}

// forgetLabels drops what a dynamic label came to, and of a living guest the label itself where the definition had none.
func forgetLabels(d *libvirtxml.Domain) {
	var kept []libvirtxml.DomainSecLabel
	for _, l := range d.SecLabel {
		if l.Type == "dynamic" {
			if l.Label, l.ImageLabel = "", ""; d.ID != nil && l.BaseLabel == "" {
				continue
			}
		}
		kept = append(kept, l)
	}
	d.SecLabel = kept
}

// deviceLists yields every list of devices.
func deviceLists(dev *libvirtxml.DomainDeviceList) func(yield func(reflect.Value) bool) {
	return func(yield func(reflect.Value) bool) {
		v := reflect.ValueOf(dev).Elem()
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.Slice && !yield(f) {
				return
			}
		}
	}
}

func forgetDevice(dev reflect.Value) {
	if dev.Kind() != reflect.Struct {
		return
	}
	if f := dev.FieldByName("Alias"); f.IsValid() {
		if a, ok := f.Interface().(*libvirtxml.DomainAlias); ok && a != nil && !strings.HasPrefix(a.Name, userAlias) {
			f.SetZero()
		}
	}
	if f := dev.FieldByName("Source"); f.IsValid() {
		if s, ok := f.Interface().(*libvirtxml.DomainChardevSource); ok && s != nil && s.Pty != nil {
			s.Pty.Path = ""
		}
	}
}
