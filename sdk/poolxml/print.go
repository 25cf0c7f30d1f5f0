package poolxml

import (
	"encoding/xml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Names of the elements that are not libvirt's own but a backend's.
const (
	mountSpace  = "http://libvirt.org/schemas/storagepool/fs/1.0"
	configSpace = "http://libvirt.org/schemas/storagepool/rbd/1.0"
)

// printed is a pool with the prefixes that libvirt gives to names of other spaces; encoding/xml would declare each space anew.
type printed struct {
	XMLName     xml.Name `xml:"pool"`
	Type        string   `xml:"type,attr"`
	MountSpace  string   `xml:"xmlns:fs,attr,omitempty"`
	ConfigSpace string   `xml:"xmlns:rbd,attr,omitempty"`
	*Pool
	Mount *struct {
		Options []Named `xml:"fs:option"`
	} `xml:"fs:mount_opts"`
	Config *struct {
		Settings []Setting `xml:"rbd:option"`
	} `xml:"rbd:config_opts"`
}

// XML prints the definition as libvirt does.
func (p *Pool) XML() (string, error) {
	plain := *p
	plain.Mount, plain.Config = nil, nil
	doc := printed{Type: p.Type, Pool: &plain}
	if p.Mount != nil {
		doc.MountSpace = mountSpace
		doc.Mount = &struct {
			Options []Named `xml:"fs:option"`
		}{p.Mount.Options}
	}
	if p.Config != nil {
		doc.ConfigSpace = configSpace
		doc.Config = &struct {
			Settings []Setting `xml:"rbd:option"`
		}{p.Config.Settings}
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", verr.New(verr.Internal, "print storage pool: %w", err)
	}
	return domxml.Reformat(string(text))
}
