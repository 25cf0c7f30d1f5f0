package domxml

import (
	"errors"
	"io"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Kinds of metadata: virDomainMetadataType.
const (
	MetadataDescription = 0
	MetadataTitle       = 1
	MetadataElement     = 2
)

// GetMetadata returns a definition's description, title, or the element of <metadata> whose namespace is uri, printed without
// that namespace as libvirt does. It fails with NoDomainMetadata if there is none.
func GetMetadata(doc string, kind int32, uri string) (string, error) {
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	switch kind {
	case MetadataDescription:
		return o.text("description")
	case MetadataTitle:
		return o.text("title")
	case MetadataElement:
		for _, c := range o.metadata {
			if c.uri == uri {
				return stripNamespace(doc[c.start:c.end], uri)
			}
		}
		return "", verr.New(verr.NoDomainMetadata, "Requested metadata element is not present")
	}
	return "", verr.New(verr.InvalidArg, "unknown metadata type '%d'", kind)
}

// text returns the text of a child of the root.
func (o *outline) text(name string) (string, error) {
	c, ok := o.child(name)
	if !ok || c.empty || c.open == c.shut {
		return "", verr.New(verr.NoDomainMetadata, "Requested metadata element is not present")
	}
	return unescape(o.doc[c.open:c.shut]), nil
}

// SetMetadata returns a definition with another description, title, or element of <metadata>. The element is a document of its
// own; it gets the prefix key for the namespace uri and replaces the one of that namespace. A nil value removes. It fails with
// XMLError for an element that is not well-formed, InvalidArg for what is missing, NoDomainMetadata where there is nothing to
// remove.
func SetMetadata(doc string, kind int32, key, uri string, value *string) (string, error) {
	given := ""
	if value != nil {
		given = *value
	}
	switch kind {
	case MetadataDescription:
		return setText(doc, "description", given)
	case MetadataTitle:
		if strings.Contains(given, "\n") {
			return "", verr.New(verr.InvalidArg, "metadata title can't contain newlines")
		}
		return setText(doc, "title", given)
	case MetadataElement:
		return setElement(doc, key, uri, value)
	}
	return "", verr.New(verr.InvalidArg, "unknown metadata type '%d'", kind)
}

func setElement(doc, key, uri string, value *string) (string, error) {
	if uri == "" {
		return "", verr.New(verr.InvalidArg, "uri in virDomainSetMetadata must not be NULL")
	}
	element := ""
	if value != nil {
		if !startsName(key) || strings.Contains(key, ":") || !allNameBytes(key) {
			return "", verr.New(verr.InvalidArg, "key %q is no prefix for a namespace", key)
		}
		var err error
		if element, err = injectNamespace(*value, key, uri); err != nil {
			return "", err
		}
	}
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	edited, err := o.setMetaChild(uri, element)
	if err != nil {
		return "", err
	}
	return Reformat(edited)
}

// setMetaChild replaces, appends or removes the child of <metadata> with a namespace.
func (o *outline) setMetaChild(uri, element string) (string, error) {
	meta, present := o.child("metadata")
	for _, c := range o.metadata {
		if c.uri != uri {
			continue
		}
		if element == "" && len(o.metadata) == 1 {
			return o.setChild("metadata", "")
		}
		// A new element goes to the end, as libvirt puts it there.
		return o.doc[:c.start] + o.doc[c.end:meta.shut] + element + o.doc[meta.shut:], nil
	}
	switch {
	case element == "":
		return "", verr.New(verr.NoDomainMetadata, "Requested metadata element is not present")
	case !present || meta.empty:
		return o.setChild("metadata", "<metadata>"+element+"</metadata>")
	}
	return o.doc[:meta.shut] + element + o.doc[meta.shut:], nil
}

// injectNamespace gives a document's root, and what in it has no prefix, a prefix for a namespace.
func injectNamespace(doc, key, uri string) (string, error) {
	declaration := " xmlns:" + key + `="` + string(metaValue.escape(nil, uri)) + `"`
	root := true
	return rewriteTags(doc, func(name string, start bool) (string, string) {
		after := ""
		if start && root {
			root, after = false, declaration
		}
		if !strings.Contains(name, ":") {
			name = key + ":" + name
		}
		return name, after
	}, "xmlns:"+key, uri)
}

// stripNamespace is the inverse of injectNamespace.
func stripNamespace(doc, uri string) (string, error) {
	s, err := newScanner(doc)
	if err != nil {
		return "", err
	}
	t, err := s.next()
	if err != nil {
		return "", err
	}
	own, _, prefixed := strings.Cut(t.name, ":")
	declaration := "xmlns:" + own
	if !prefixed {
		declaration = "xmlns"
	}
	return rewriteTags(doc, func(name string, _ bool) (string, string) {
		if prefixed {
			name = strings.TrimPrefix(name, own+":")
		}
		return name, ""
	}, declaration, uri)
}

// rewriteTags copies a document and renames its elements; rename returns the new name and what to write at the end of the start
// tag. Declarations of one namespace are left out. An XML declaration and what stands around the root are dropped.
func rewriteTags(doc string, rename func(name string, start bool) (string, string), dropName, dropURI string) (string, error) {
	s, err := newScanner(doc)
	if err != nil {
		return "", err
	}
	var out []byte
	for {
		t, err := s.next()
		switch {
		case errors.Is(err, io.EOF):
			return string(out), nil
		case err != nil:
			return "", err
		case t.kind == startTag:
			name, after := rename(t.name, true)
			out = append(append(out, '<'), name...)
			for _, a := range t.attrs {
				if a.name == dropName && unescape(a.raw) == dropURI {
					continue
				}
				out = append(append(append(out, ' '), a.name...), `="`...)
				out = append(metaValue.escape(out, unescape(a.raw)), '"')
			}
			out = append(out, after...)
			if t.empty {
				out = append(out, '/')
			}
			out = append(out, '>')
		case t.kind == endTag:
			name, _ := rename(t.name, false)
			out = append(append(append(out, "</"...), name...), '>')
		case t.kind == text || len(s.open) > 0:
			out = append(out, doc[t.start:t.end]...)
		}
	}
}

func allNameBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}
