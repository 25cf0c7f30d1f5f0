package domxml

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Parse reads a domain definition from outside. It fails with XMLError, naming the line, if the text is not well-formed, is over
// a limit of this package, has another root than <domain>, or has a value that its element cannot have.
func Parse(doc string) (*libvirtxml.Domain, error) {
	if err := Check(doc, "domain"); err != nil {
		return nil, err
	}
	if err := checkCiphers(doc); err != nil {
		return nil, err
	}
	doc = withoutDeclaration(doc)
	d := &libvirtxml.Domain{}
	decoder := xml.NewDecoder(strings.NewReader(doc))
	if err := decoder.Decode(d); err != nil {
		line, _ := decoder.InputPos()
		return nil, verr.New(verr.XMLError, "line %d: %w", line, err)
	}
	if d.Metadata == nil {
		return d, nil
	}
	inner, err := ownNamespaces(doc)
	if err != nil {
		return nil, err
	}
	d.Metadata.XML = inner
	return d, nil
}

// Check reads a document of any kind to its end and fails as Parse does. An empty root allows any.
func Check(doc, root string) error {
	s, err := newScanner(doc)
	if err != nil {
		return err
	}
	for first := true; ; {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if t.kind == startTag && first {
			first = false
			if root != "" && t.name != root {
				return verr.New(verr.XMLError, "expecting root element of '%s', not '%s'", root, t.name)
			}
		}
	}
}

// checkCiphers refuses what the typed form does not know and a disk cannot have: its image says itself how it is encrypted.
func checkCiphers(doc string) error {
	if !strings.Contains(doc, "<cipher") {
		return nil
	}
	s, err := newScanner(doc)
	if err != nil {
		return err
	}
	for {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if t.kind == startTag && t.name == "cipher" && slices.Contains(s.open, "encryption") {
			return verr.New(verr.ConfigUnsupported, "supplying <cipher> for domain disk definition is unnecessary")
		}
	}
}

// withoutDeclaration cuts off an XML declaration; the numbers of the lines stay as they are.
func withoutDeclaration(doc string) string {
	doc = strings.TrimPrefix(doc, "\ufeff")
	if !strings.HasPrefix(doc, "<?xml") {
		return doc
	}
	declaration, rest, _ := strings.Cut(doc, "?>")
	return strings.Repeat("\n", strings.Count(declaration, "\n")) + rest
}
