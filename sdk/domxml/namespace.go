package domxml

import (
	"errors"
	"io"
	"slices"
	"strings"
)

// span is an element's place in a document, in bytes.
type span struct {
	name string
	// start and end enclose the element, open and shut its content; an empty element has open == shut == end.
	start, open, shut, end int
	empty                  bool
}

// outline is a document's root, its children and the children of its <metadata>.
type outline struct {
	doc      string
	root     span
	children []span
	metadata []metaChild
	// declared are the namespaces that the root and <metadata> declare, the innermost of each prefix.
	declared []attribute
}

// metaChild is a child of <metadata> with its namespace.
type metaChild struct {
	span
	prefix, uri string
}

// readOutline scans a whole document.
func readOutline(doc string) (*outline, error) {
	s, err := newScanner(doc)
	if err != nil {
		return nil, err
	}
	o := &outline{doc: doc}
	for {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err != nil {
			return nil, err
		}
		depth := len(s.open)
		switch {
		case t.kind == startTag && t.empty:
			o.begin(t, depth)
			o.finish(t, depth)
		case t.kind == startTag:
			o.begin(t, depth-1)
		case t.kind == endTag:
			o.finish(t, depth)
		}
	}
}

func (o *outline) inMetadata() bool {
	return len(o.children) > 0 && o.children[len(o.children)-1].name == "metadata"
}

// begin notes a start tag at a depth; 0 is the root.
func (o *outline) begin(t token, depth int) {
	sp := span{name: t.name, start: t.start, open: t.end, empty: t.empty}
	switch {
	case depth == 0:
		o.root = sp
		o.declare(t.attrs)
	case depth == 1:
		o.children = append(o.children, sp)
		if t.name == "metadata" {
			o.declare(t.attrs)
		}
	case depth == 2 && o.inMetadata():
		prefix, _, prefixed := strings.Cut(t.name, ":")
		if !prefixed {
			prefix = ""
		}
		o.metadata = append(o.metadata, metaChild{span: sp, prefix: prefix, uri: o.resolve(prefix, t.attrs)})
	}
}

// finish notes the end of the element that began last at a depth.
func (o *outline) finish(t token, depth int) {
	var sp *span
	switch {
	case depth == 0:
		sp = &o.root
	case depth == 1:
		sp = &o.children[len(o.children)-1]
	case depth == 2 && o.inMetadata():
		sp = &o.metadata[len(o.metadata)-1].span
	default:
		return
	}
	sp.shut, sp.end = t.start, t.end
	if t.empty {
		sp.shut = t.end
	}
}

func (o *outline) declare(attrs []attribute) {
	for _, a := range attrs {
		if a.name != "xmlns" && !strings.HasPrefix(a.name, "xmlns:") {
			continue
		}
		o.declared = slices.DeleteFunc(o.declared, func(d attribute) bool { return d.name == a.name })
		o.declared = append(o.declared, attribute{name: a.name, raw: unescape(a.raw)})
	}
}

// resolve returns the namespace of a prefix, the element's own declarations first, then those further out.
func (o *outline) resolve(prefix string, own []attribute) string {
	want := "xmlns:" + prefix
	if prefix == "" {
		want = "xmlns"
	}
	for _, a := range own {
		if a.name == want {
			return unescape(a.raw)
		}
	}
	for _, d := range o.declared {
		if d.name == want {
			return d.raw
		}
	}
	return ""
}

// child returns the first child of the root with a name.
func (o *outline) child(name string) (span, bool) {
	for _, c := range o.children {
		if c.name == name {
			return c, true
		}
	}
	return span{}, false
}

// ownNamespaces returns the content of <metadata> with the prefixes that are declared further out declared on each child that
// uses them, so that the content stands for itself.
func ownNamespaces(doc string) (string, error) {
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	meta, ok := o.child("metadata")
	if !ok || meta.empty {
		return "", nil
	}
	var b strings.Builder
	from := meta.open
	for _, c := range o.metadata {
		if c.start < meta.start || c.end > meta.end {
			continue
		}
		at := c.start + len("<") + len(c.name)
		b.WriteString(doc[from:at])
		for _, d := range o.declared {
			prefix := strings.TrimPrefix(d.name, "xmlns:")
			body := doc[c.start:c.end]
			used := prefix != "xmlns" && (strings.Contains(body, "<"+prefix+":") || strings.Contains(body, " "+prefix+":"))
			if used && !strings.Contains(body, d.name+"=") {
				b.WriteString(" " + d.name + `="` + string(metaValue.escape(nil, d.raw)) + `"`)
			}
		}
		from = at
	}
	b.WriteString(doc[from:meta.shut])
	return b.String(), nil
}
