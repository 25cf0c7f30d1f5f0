package secret

import (
	"encoding/xml"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// UsageType is libvirt's virSecretUsageType.
type UsageType int32

// Usage types in libvirt's numbering.
const (
	UsageNone   UsageType = 0
	UsageVolume UsageType = 1
	UsageCeph   UsageType = 2
	UsageISCSI  UsageType = 3
	UsageTLS    UsageType = 4
	UsageVTPM   UsageType = 5
)

var usageTypes = map[string]UsageType{
	"none": UsageNone, "volume": UsageVolume, "ceph": UsageCeph, "iscsi": UsageISCSI, "tls": UsageTLS, "vtpm": UsageVTPM,
}

// Definition is what a secret is.
type Definition struct {
	UUID uuid.UUID
	// Ephemeral secrets are never on disk.
	Ephemeral bool
	// Private ones are told to no client.
	Private     bool
	Description string
	UsageType   UsageType
	// Usage is a volume's path, or a name.
	Usage string
}

// maxXML is the largest definition in bytes.
const maxXML = 4 << 20

// parse reads a definition. Without a UUID it is nil.
func parse(text string) (Definition, error) {
	if len(text) > maxXML {
		return Definition{}, secretError(verr.XMLError, "definition of secret has %d bytes, at most %d are allowed", len(text), maxXML)
	}
	if err := domxml.Check(text, "secret"); err != nil {
		return Definition{}, err
	}
	var x libvirtxml.Secret
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return Definition{}, secretError(verr.XMLError, "definition of secret: %w", err)
	}
	d := Definition{Description: x.Description}
	var err error
	if d.Ephemeral, err = yes("ephemeral", x.Ephemeral); err != nil {
		return Definition{}, err
	}
	if d.Private, err = yes("private", x.Private); err != nil {
		return Definition{}, err
	}
	if x.UUID != "" {
		if d.UUID, err = uuid.Parse(strings.TrimSpace(x.UUID)); err != nil {
			return Definition{}, secretError(verr.XMLError, "malformed uuid element '%s'", x.UUID)
		}
	}
	return d, d.use(x.Usage)
}

func yes(name, word string) (bool, error) {
	switch word {
	case "yes":
		return true, nil
	case "", "no":
		return false, nil
	}
	return false, secretError(verr.XMLError, "invalid value of '%s': '%s'", name, word)
}

// use takes over what the secret is for.
func (d *Definition) use(u *libvirtxml.SecretUsage) error {
	if u == nil {
		return nil
	}
	kind, ok := usageTypes[u.Type]
	if !ok {
		return secretError(verr.XMLError, "unknown secret usage type '%s'", u.Type)
	}
	d.UsageType = kind
	element := ""
	switch kind {
	case UsageNone:
		return nil
	case UsageVolume:
		d.Usage, element = u.Volume, "volume"
		if u.Volume != "" && !filepath.IsAbs(u.Volume) {
			return secretError(verr.XMLError, "volume usage path '%s' is not absolute", u.Volume)
		}
	case UsageISCSI:
		d.Usage, element = u.Target, "target"
	case UsageCeph, UsageTLS, UsageVTPM:
		d.Usage, element = u.Name, "name"
	}
	if d.Usage == "" {
		return secretError(verr.XMLError, "%s usage specified, but %s is missing", u.Type, element)
	}
	return nil
}

// The description of a secret, in libvirt's order.
type (
	secretXML struct {
		XMLName     xml.Name  `xml:"secret"`
		Ephemeral   string    `xml:"ephemeral,attr"`
		Private     string    `xml:"private,attr"`
		UUID        string    `xml:"uuid"`
		Description string    `xml:"description,omitempty"`
		Usage       *usageXML `xml:"usage"`
	}
	usageXML struct {
		Type   string `xml:"type,attr"`
		Volume string `xml:"volume,omitempty"`
		Name   string `xml:"name,omitempty"`
		Target string `xml:"target,omitempty"`
	}
)

// XML describes the secret as libvirt does, without its value.
func (d Definition) XML() string {
	word := map[bool]string{true: "yes", false: "no"}
	doc := secretXML{Ephemeral: word[d.Ephemeral], Private: word[d.Private], UUID: d.UUID.String(), Description: d.Description}
	for name, kind := range usageTypes {
		if kind != d.UsageType || kind == UsageNone {
			continue
		}
		doc.Usage = &usageXML{Type: name}
		switch kind {
		case UsageVolume:
			doc.Usage.Volume = d.Usage
		case UsageISCSI:
			doc.Usage.Target = d.Usage
		case UsageNone, UsageCeph, UsageTLS, UsageVTPM:
			doc.Usage.Name = d.Usage
		}
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "" // impossible: the document has texts only
	}
	out, err := domxml.Reformat(string(text))
	if err != nil {
		return "" // impossible: it was just printed
	}
	return out
}
