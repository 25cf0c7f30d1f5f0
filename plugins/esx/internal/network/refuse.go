package network

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
)

// known are the elements that mean something to a host, by their path, and their attributes. What is only said about a running network
// ("connections") and what a bridge without a name has, which libvirt prints for each network without NICs, is allowed and means nothing.
var known = map[string][]string{
	"network":                              {"connections"},
	"network/name":                         nil,
	"network/uuid":                         nil,
	"network/forward":                      {"mode", "dev"},
	"network/forward/interface":            {"dev", "connections"},
	"network/bridge":                       {"stp", "delay"},
	"network/mtu":                          {"size"},
	"network/bandwidth":                    nil,
	"network/bandwidth/inbound":            {"average", "peak", "burst"},
	"network/bandwidth/outbound":           {"average", "peak", "burst"},
	"network/portgroup":                    {"name", "default"},
	"network/portgroup/vlan":               {"trunk"},
	"network/portgroup/vlan/tag":           {"id"},
	"network/portgroup/bandwidth":          nil,
	"network/portgroup/bandwidth/inbound":  {"average", "peak", "burst"},
	"network/portgroup/bandwidth/outbound": {"average", "peak", "burst"},
}

// many are the elements of which there may be several beside each other.
var many = []string{"network/forward/interface", "network/portgroup", "network/portgroup/vlan/tag"}

// refuse names the first element or attribute of a well-formed document that a host does not have.
func refuse(doc string) error {
	decoder := xml.NewDecoder(strings.NewReader(doc))
	var path []string
	seen := []map[string]bool{{}} // of the children of each open element
	for {
		t, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return malformed("%w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			path = append(path, t.Name.Local)
			where := strings.Join(path, "/")
			if err := refuseElement(where, t); err != nil {
				return err
			}
			siblings := seen[len(seen)-1]
			if siblings[where] && !slices.Contains(many, where) {
				return malformed("<%s> is given twice", t.Name.Local)
			}
			siblings[where] = true
			seen = append(seen, map[string]bool{})
		case xml.EndElement:
			path, seen = path[:len(path)-1], seen[:len(seen)-1]
		}
	}
}

func refuseElement(where string, t xml.StartElement) error {
	attributes, ok := known[where]
	if !ok || t.Name.Space != "" {
		return unsupported("element <%s> (%s) is not supported: a virtual switch of a host has nothing like it", t.Name.Local, where)
	}
	for _, a := range t.Attr {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && (a.Name.Local == "xmlns" || slices.Contains(attributes, a.Name.Local)) {
			continue
		}
		return unsupported("attribute '%s' of <%s> (%s) is not supported", a.Name.Local, t.Name.Local, where)
	}
	return nil
}
