package domxml

import (
	"errors"
	"io"
)

// RootAttribute returns an attribute of a document's root, or "" where it has none. The whole document is checked as Check does.
func RootAttribute(doc, root, name string) (string, error) {
	if err := Check(doc, root); err != nil {
		return "", err
	}
	s, err := newScanner(doc)
	if err != nil {
		return "", err
	}
	for {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if t.kind != startTag {
			continue
		}
		for _, a := range t.attrs {
			if a.name == name {
				return unescape(a.raw), nil
			}
		}
		return "", nil
	}
}

// RootChild returns the text of the first child of a document's root with a name, or "" where it has none. The whole document is checked
// as Check does.
func RootChild(doc, root, name string) (string, error) {
	if err := Check(doc, root); err != nil {
		return "", err
	}
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	e, ok := o.child(name)
	if !ok {
		return "", nil
	}
	return unescape(doc[e.open:e.shut]), nil
}
