package domxml

import (
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// order are the first children of <domain> as libvirt prints them.
var order = []string{"name", "uuid", "hwuuid", "genid", "title", "description", "metadata"}

// SetName returns a definition with another name.
func SetName(doc, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	return setText(doc, "name", name)
}

// SetUUID returns a definition with another UUID.
func SetUUID(doc, id string) (string, error) {
	parsed, err := ParseUUID(id)
	if err != nil {
		return "", err
	}
	return setText(doc, "uuid", parsed.String())
}

// SetID returns a definition that this package has printed with libvirt's id of the running domain on its root, or without one if
// id is negative. It reads no further than the root's start tag, so that it costs a copy of the text and no more.
func SetID(doc string, id int32) (string, error) {
	end := strings.IndexByte(doc, '>')
	if end < 0 || !strings.HasPrefix(doc, "<domain") {
		return "", verr.New(verr.XMLError, "definition does not begin with its root element")
	}
	tag := doc[:end+1]
	if start, stop, ok := findAttribute(tag, "id"); ok {
		tag = tag[:start] + tag[stop:]
	}
	if id >= 0 {
		at := len("<domain")
		if _, stop, ok := findAttribute(tag, "type"); ok {
			at = stop
		}
		tag = tag[:at] + " id='" + strconv.Itoa(int(id)) + "'" + tag[at:]
	}
	return tag + doc[end+1:], nil
}

// setText sets or, if the value is empty, removes a child of the root that holds nothing but a text.
func setText(doc, name, value string) (string, error) {
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	element := ""
	if value != "" {
		element = "<" + name + ">" + string(plainText.escape(nil, value)) + "</" + name + ">"
	}
	edited, err := o.setChild(name, element)
	if err != nil {
		return "", err
	}
	return Reformat(edited)
}

// setChild replaces, adds or, if element is empty, removes a child of the root; a new one stands where libvirt prints it.
func (o *outline) setChild(name, element string) (string, error) {
	if c, ok := o.child(name); ok {
		return o.doc[:c.start] + element + o.doc[c.end:], nil
	}
	if element == "" {
		return o.doc, nil
	}
	if o.root.empty {
		return "", verr.New(verr.XMLError, "element '%s' is empty", o.root.name)
	}
	at := o.root.open
	for _, before := range order {
		if before == name {
			break
		}
		if c, ok := o.child(before); ok {
			at = c.end
		}
	}
	return o.doc[:at] + element + o.doc[at:], nil
}

// ownTexts are the children of <domain> that mean nothing to a hypervisor.
var ownTexts = []string{"title", "description", "metadata"}

// KeepTexts returns a definition with the title, description and metadata of another one.
func KeepTexts(from, doc string) (string, error) {
	source, err := readOutline(from)
	if err != nil {
		return "", err
	}
	changed := false
	for _, name := range ownTexts {
		o, err := readOutline(doc)
		if err != nil {
			return "", err
		}
		want, have := source.element(name), o.element(name)
		if want == have {
			continue
		}
		changed = true
		if doc, err = o.setChild(name, want); err != nil {
			return "", err
		}
	}
	if !changed {
		return doc, nil
	}
	return Reformat(doc)
}

// element is a child of the root as it stands in the document, or empty.
func (o *outline) element(name string) string {
	c, ok := o.child(name)
	if !ok {
		return ""
	}
	return o.doc[c.start:c.end]
}
