package network

import (
	"encoding/xml"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of a definition.
const (
	// maxName is the longest name of a switch that hosts accept, in characters.
	maxName = 32
	// maxGroupName is the longest name of a port group, as of any object in the inventory.
	maxGroupName = 80
	// maxGroups is the largest number of port groups of a host.
	maxGroups = 1000
	// maxRate is the largest rate whose bits fit.
	maxRate = math.MaxInt64 / 8 / 1000
)

func malformed(format string, args ...any) error {
	return verr.New(verr.XMLError, format, args...).In(verr.FromNetwork)
}

func unsupported(format string, args ...any) error {
	return verr.New(verr.ConfigUnsupported, format, args...).In(verr.FromNetwork)
}

// parse reads a definition. It fails with XMLError for what is no network, and with ConfigUnsupported, by name, for what a host does not
// have.
func parse(doc string) (vswitch, error) {
	if err := domxml.Check(doc, "network"); err != nil {
		return vswitch{}, err
	}
	if err := refuse(doc); err != nil {
		return vswitch{}, err
	}
	var d networkDoc
	if err := xml.Unmarshal([]byte(doc), &d); err != nil {
		return vswitch{}, malformed("%w", err)
	}
	return d.vswitch()
}

func (d networkDoc) vswitch() (v vswitch, err error) {
	v = vswitch{name: d.Name, mtu: defaultMTU}
	if err := checkName("network", v.name, maxName); err != nil {
		return v, err
	}
	if strings.Contains(v.name, "/") {
		return v, malformed("name %q of a network cannot contain '/'", v.name)
	}
	if d.UUID != "" {
		id, err := domxml.ParseUUID(strings.TrimSpace(d.UUID))
		if err != nil {
			return v, malformed("uuid %q of network %q: %w", d.UUID, v.name, err)
		}
		v.uuid = id.String()
	}
	if v.nics, err = d.Forward.devices(); err != nil {
		return v, err
	}
	if d.MTU != nil {
		size, err := number("size of <mtu>", d.MTU.Size, math.MaxInt32)
		if err != nil {
			return v, err
		}
		v.mtu = int32(size)
	}
	if v.shaping, err = d.Bandwidth.shaping(); err != nil {
		return v, err
	}
	v.groups, err = groups(d.Groups)
	return v, err
}

// devices lists the physical NICs.
func (d *forwardDoc) devices() ([]string, error) {
	if d == nil {
		return nil, nil
	}
	switch d.Mode {
	case "bridge":
	case "":
		return nil, unsupported("forward mode 'nat' is not supported: a host only has 'bridge'")
	default:
		return nil, unsupported("forward mode '%s' is not supported: a host only has 'bridge'", d.Mode)
	}
	var all []string
	for _, nic := range d.NICs {
		switch {
		case nic.Dev == "":
			return nil, malformed("<interface> of <forward> has no 'dev'")
		case slices.Contains(all, nic.Dev):
			return nil, malformed("interface %q is given twice", nic.Dev)
		}
		all = append(all, nic.Dev)
	}
	switch {
	case d.Dev == "":
	case len(all) == 0:
		all = []string{d.Dev}
	case all[0] != d.Dev:
		return nil, malformed("'dev' of <forward> is %q, and the first <interface> is %q", d.Dev, all[0])
	}
	return all, nil
}

// groups reads port groups.
func groups(docs []groupDoc) ([]group, error) {
	if len(docs) > maxGroups {
		return nil, malformed("%d port groups are more than the %d that a host can have", len(docs), maxGroups)
	}
	var all []group
	seen := map[string]bool{}
	for _, d := range docs {
		if err := checkName("port group", d.Name, maxGroupName); err != nil {
			return nil, err
		}
		if seen[d.Name] {
			return nil, malformed("port group %q is given twice", d.Name)
		}
		seen[d.Name] = true
		if d.Default != "" && d.Default != "no" {
			return nil, unsupported("attribute 'default' of port group %q is not supported: a host has no default port group", d.Name)
		}
		g := group{name: d.Name}
		var err error
		if g.vlan, err = d.VLAN.id(d.Name); err != nil {
			return nil, err
		}
		if g.shaping, err = d.Bandwidth.shaping(); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

// id reads the VLAN of a port group. A host knows one, or all with their tags, which it writes as 4095.
func (d *vlanDoc) id(name string) (int32, error) {
	switch {
	case d == nil:
		return 0, nil
	case len(d.Tags) == 0:
		return 0, malformed("<vlan> of port group %q has no <tag>", name)
	case len(d.Tags) > 1:
		return 0, unsupported("<vlan> of port group %q has several <tag>: a host has one, or all by id 4095", name)
	}
	id, err := number("id of <tag>", d.Tags[0].ID, trunk)
	switch {
	case err != nil:
		return 0, err
	case d.Trunk != "" && d.Trunk != "yes" && d.Trunk != "no":
		return 0, malformed("trunk '%s' of port group %q is neither 'yes' nor 'no'", d.Trunk, name)
	case d.Trunk == "yes" && id != trunk, d.Trunk == "no" && id == trunk:
		return 0, unsupported("trunk '%s' with tag %d of port group %q is not supported: the only trunk that a host has is of all, id 4095",
			d.Trunk, id, name)
	}
	return int32(id), nil
}

// shaping reads bandwidth, which a host has for both directions together.
func (d *bandwidthDoc) shaping() (shaping, error) {
	if d == nil || d.In == nil && d.Out == nil {
		return shaping{}, nil
	}
	if d.In == nil || d.Out == nil {
		return shaping{}, unsupported("different inbound and outbound bandwidth is not supported")
	}
	in, err := d.In.shaping("inbound")
	if err != nil {
		return in, err
	}
	out, err := d.Out.shaping("outbound")
	if err != nil {
		return out, err
	}
	if in != out {
		return in, unsupported("different inbound and outbound bandwidth is not supported")
	}
	return in, nil
}

func (d *rateDoc) shaping(direction string) (s shaping, err error) {
	if d.Average == "" {
		return s, malformed("<%s> has no 'average'", direction)
	}
	for _, f := range []struct {
		name, text string
		value      *uint64
	}{{"average", d.Average, &s.average}, {"peak", d.Peak, &s.peak}, {"burst", d.Burst, &s.burst}} {
		if f.text == "" {
			continue
		}
		if *f.value, err = number(f.name+" of <"+direction+">", f.text, maxRate); err != nil {
			return s, err
		}
	}
	return s, nil
}

// number reads a number without a sign.
func number(what, text string, largest uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > largest {
		return 0, malformed("%s is '%s', not a number from 0 to %d", what, text, largest)
	}
	return n, nil
}

// checkName refuses names that hosts refuse or that can't be printed.
func checkName(what, name string, longest int) error {
	switch {
	case name == "":
		return malformed("a %s has no name", what)
	case utf8.RuneCountInString(name) > longest:
		return malformed("name %q of a %s is longer than %d characters", name, what, longest)
	case strings.ContainsFunc(name, unicode.IsControl):
		return malformed("name %q of a %s has control characters", name, what)
	}
	return nil
}
