package domxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// alwaysOpen are children of the root that libvirt prints with an end tag even when they are empty.
var alwaysOpen = map[string]bool{"devices": true, "portgroup": true}

// Format prints a domain as libvirt does.
func Format(d *libvirtxml.Domain) (string, error) {
	b, err := xml.Marshal(d)
	if err != nil {
		return "", verr.New(verr.Internal, "print domain %q: %w", d.Name, err)
	}
	return Reformat(string(b))
}

// Reformat prints any document as libvirt does. Comments and text beside elements are kept inside <metadata> and dropped
// elsewhere, as libvirt does. It fails with XMLError as Parse does.
func Reformat(doc string) (string, error) {
	s, err := newScanner(doc)
	if err != nil {
		return "", err
	}
	p := printer{doc: doc, out: make([]byte, 0, len(doc)+len(doc)/3)}
	for {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			return string(append(p.out, '\n')), nil
		}
		if err != nil {
			return "", err
		}
		p.print(t)
	}
}

// printer lays out the tokens of one document.
type printer struct {
	doc   string
	out   []byte
	stack []frame
	// One child of <metadata> at a time: where it begins in doc and out, and whether it mixes text and elements.
	metaDoc, metaOut int
	mixed            bool
}

// frame is an element that is open.
type frame struct {
	name string
	// text that came before any child, resolved.
	text []byte
	// parent says that a child was printed.
	parent bool
}

func (p *printer) print(t token) {
	switch t.kind {
	case startTag:
		p.start(t)
	case endTag:
		p.end(t)
	case text:
		p.text(t)
	case comment:
		if p.inMetadata(0) {
			p.child()
			p.out = append(p.out, t.raw...)
		}
	}
}

// inMetadata reports whether we are inside <metadata>, at least so many levels.
func (p *printer) inMetadata(levels int) bool {
	return len(p.stack) >= 2+levels && p.stack[1].name == "metadata"
}

// child begins a new line for a child of the innermost open element.
func (p *printer) child() {
	if n := len(p.stack); n > 0 {
		top := &p.stack[n-1]
		if !top.parent {
			p.out = append(p.out, '>')
			top.parent = true
		}
		if p.inMetadata(1) && !blank(top.text) {
			p.mixed = true
		}
		p.out = append(p.out, '\n')
	}
	p.indent(len(p.stack))
}

func (p *printer) indent(levels int) {
	for range levels {
		p.out = append(p.out, ' ', ' ')
	}
}

func (p *printer) start(t token) {
	p.child()
	if p.inMetadata(0) && len(p.stack) == 2 {
		p.metaDoc, p.metaOut, p.mixed = t.start, len(p.out), false
	}
	p.out = append(append(p.out, '<'), t.name...)
	escapes, quote := &plainValue, byte('\'')
	if p.inMetadata(0) || len(p.stack) == 1 && t.name == "metadata" {
		escapes, quote = &metaValue, '"'
	}
	for _, a := range t.attrs {
		p.out = append(append(append(p.out, ' '), a.name...), '=', quote)
		p.out = append(escapes.escape(p.out, unescape(a.raw)), quote)
	}
	p.stack = append(p.stack, frame{name: t.name})
	if t.empty {
		p.end(t)
	}
}

func (p *printer) end(t token) {
	depth := len(p.stack) - 1
	top := p.stack[depth]
	switch {
	case top.parent || depth == 1 && alwaysOpen[top.name]:
		if !top.parent {
			p.out = append(p.out, '>')
		}
		p.out = append(p.out, '\n')
		p.indent(depth)
		p.out = append(append(append(p.out, "</"...), top.name...), '>')
	case len(top.text) == 0 || blank(top.text) && bytes.IndexByte(top.text, '\n') >= 0:
		p.out = append(p.out, "/>"...)
	default:
		escapes := &plainText
		if p.inMetadata(0) {
			escapes = &metaText
		}
		p.out = escapes.escape(append(p.out, '>'), string(top.text))
		p.out = append(append(append(p.out, "</"...), top.name...), '>')
	}
	p.stack = p.stack[:depth]
	if depth == 2 && p.mixed && p.inMetadata(0) {
		p.out = append(p.out[:p.metaOut], p.doc[p.metaDoc:t.end]...)
		p.mixed = false
	}
}

func (p *printer) text(t token) {
	top := &p.stack[len(p.stack)-1]
	s := t.raw
	if !t.cdata {
		s = unescape(s)
	}
	switch {
	case !top.parent:
		top.text = append(top.text, s...)
	case p.inMetadata(1) && strings.TrimSpace(s) != "":
		p.mixed = true
	}
}

func blank(b []byte) bool { return len(bytes.TrimSpace(b)) == 0 }
