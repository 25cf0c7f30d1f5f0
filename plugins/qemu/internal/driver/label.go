package driver

import (
	"fmt"
	"os"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/ownership"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// dac is the model of security labels that are users and groups.
const dac = "dac"

// label is what a definition's <seclabel> comes to: whom QEMU runs as, and whether the guest's files become that user's.
type label struct {
	// owner is whom QEMU runs as, nil for the plugin's own user.
	owner *process.Owner
	// relabel says that the guest's files are given to the owner.
	relabel bool
	// live is what clients see while the guest lives, nil for nothing.
	live *libvirtxml.DomainSecLabel
}

// labelOf reads the security label of a definition. Only root can run guests as others, so that a session has no such labels.
func (d *Driver) labelOf(def *libvirtxml.Domain) (label, error) {
	c, err := d.config()
	if err != nil {
		return label{}, err
	}
	return makeLabel(c, os.Geteuid() == 0, def.SecLabel)
}

// labelOfLive reads the label that a living guest has: whom its QEMU runs as.
func (d *Driver) labelOfLive(live *libvirtxml.Domain) (label, error) {
	for _, l := range live.SecLabel {
		if l.Model != dac || l.Label == "" {
			continue
		}
		owner, err := parseLabel(l.Label)
		if err != nil {
			return label{}, err
		}
		return label{owner: owner, relabel: l.ImageLabel != "" && owner != nil && d.relabels()}, nil
	}
	return d.labelOf(live)
}

// relabels reports whether the operator lets the driver give files away.
func (d *Driver) relabels() bool {
	c, err := d.config()
	return err == nil && (c.DynamicOwnership == nil || *c.DynamicOwnership)
}

func makeLabel(c Config, privileged bool, labels []libvirtxml.DomainSecLabel) (label, error) {
	own, err := chooseLabel(privileged, labels)
	if err != nil || !privileged {
		return label{}, err
	}
	owner, err := c.owner()
	if err != nil {
		return label{}, err
	}
	if own.Type == "none" {
		return label{owner: owner, live: &own}, nil
	}
	if own.Label == "" {
		own.Label = ownerOf(owner).String()
	} else if owner, err = parseLabel(own.Label); err != nil {
		return label{}, err
	}
	if own.Relabel == "yes" {
		own.ImageLabel = own.Label
	}
	// Root may open any file, whoever's it is.
	relabel := own.Relabel == "yes" && owner != nil && (c.DynamicOwnership == nil || *c.DynamicOwnership)
	return label{owner: owner, relabel: relabel, live: &own}, nil
}

// chooseLabel finds the label of users and groups among a definition's, with all that it leaves open.
func chooseLabel(privileged bool, labels []libvirtxml.DomainSecLabel) (libvirtxml.DomainSecLabel, error) {
	own := libvirtxml.DomainSecLabel{Type: "dynamic", Model: dac, Relabel: "yes"}
	for i, l := range labels {
		if l.Model == "" && (l.Type == "" || l.Type == "none" || l.Type == "dynamic" && l.BaseLabel == "") {
			l.Model = dac
		}
		switch {
		case l.Model != dac || !privileged && l.Type != "none":
			return own, verr.New(verr.ConfigUnsupported, "Security driver model '%s' is not available", l.Model)
		case i > 0:
			return own, verr.New(verr.XMLError, "seclabel for model %s is already provided", dac)
		}
		own = l
	}
	switch own.Type {
	case "", "dynamic":
		own.Type = "dynamic"
		if own.Relabel == "no" {
			return own, verr.New(verr.XMLError, "dynamic label type must use resource relabeling")
		}
		own.Relabel, own.Label = "yes", own.BaseLabel
	case "static":
		if own.Label == "" {
			return own, verr.New(verr.XMLError, "security label is missing")
		}
		if own.Relabel == "" {
			own.Relabel = "no"
		}
	case "none":
		if own.Relabel == "yes" {
			return own, verr.New(verr.XMLError, "resource relabeling is not compatible with 'none' label type")
		}
		own = libvirtxml.DomainSecLabel{Type: "none", Model: dac}
	default:
		return own, verr.New(verr.XMLError, "invalid security type '%s'", own.Type)
	}
	return own, nil
}

// parseLabel reads "user:group", each by name or as "+number". It returns nil for root, who QEMU need not become.
func parseLabel(text string) (*process.Owner, error) {
	name, group, found := strings.Cut(text, ":")
	if !found || name == "" || group == "" {
		return nil, verr.New(verr.Internal, "Failed to parse uid and gid from DAC security label '%s'", text)
	}
	o, err := lookup(name, group)
	if err != nil {
		return nil, verr.New(verr.InvalidArg, "Cannot parse user or group '%s': %w", text, err)
	}
	if o.UID == 0 && o.GID == 0 {
		return nil, nil
	}
	return o, nil
}

func ownerOf(o *process.Owner) ownership.Owner {
	if o == nil {
		return ownership.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	return ownership.Owner{UID: o.UID, GID: o.GID}
}

// show puts the label into a live definition.
func (l label) show(live *libvirtxml.Domain) {
	if l.live != nil {
		live.SecLabel = []libvirtxml.DomainSecLabel{*l.live}
	}
}

// target is a file that a guest uses.
type target struct {
	Path string `json:"path"`
	// Shared says that other guests may use it at the same time.
	Shared bool `json:"shared,omitempty"`

	// create says that QEMU would make the file.
	create bool
	labels []libvirtxml.DomainDeviceSecLabel
}

// whom returns whom a file shall be given to, or nobody: a device may have a label of its own.
func (l label) whom(t target) (to ownership.Owner, ok bool, err error) {
	for _, own := range t.labels {
		if own.Model != "" && own.Model != dac {
			continue
		}
		if own.Relabel == "no" || own.LabelSkip == "yes" {
			return to, false, nil
		}
		if own.Label != "" {
			o, err := parseLabel(own.Label)
			if err != nil {
				return to, false, fmt.Errorf("find owner of %q: %w", t.Path, err)
			}
			return ownerOf(o), true, nil
		}
	}
	return ownerOf(l.owner), l.relabel, nil
}
