package domxml

import (
	"errors"
	"io"
	"strings"
)

// Redact leaves out what libvirt shows only to those who ask for it with VIR_DOMAIN_XML_SECURE: passwords of displays and the
// cookies of disks on web servers. Everything else stays as it is, byte for byte.
func Redact(doc string) (string, error) {
	if !strings.Contains(doc, "passwd") && !strings.Contains(doc, "<cookies") {
		return doc, nil
	}
	s, err := newScanner(doc)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	from := 0
	for {
		t, err := s.next()
		if errors.Is(err, io.EOF) {
			b.WriteString(doc[from:])
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch {
		case t.kind != startTag || len(s.open) < 2 || s.open[1] != "devices":
		case t.name == "graphics":
			if start, end, ok := findAttribute(doc[t.start:t.end], "passwd"); ok {
				b.WriteString(doc[from : t.start+start])
				from = t.start + end
			}
		case t.name == "cookies":
			b.WriteString(strings.TrimRight(doc[from:t.start], " \t\n"))
			if from, err = s.skip(t); err != nil {
				return "", err
			}
		}
	}
}

// skip reads on to the end of the element that t began, and returns it.
func (s *scanner) skip(t token) (end int, err error) {
	for depth := len(s.open); !t.empty && len(s.open) >= depth; {
		if t, err = s.next(); err != nil {
			return 0, err
		}
		t.empty = false
	}
	return t.end, nil
}

// findAttribute finds an attribute in a start tag that the scanner has passed, with the space before it.
func findAttribute(tag, name string) (start, end int, ok bool) {
	s := &scanner{doc: tag, pos: 1}
	if _, err := s.name(); err != nil {
		return 0, 0, false
	}
	for {
		start := s.pos
		s.space()
		found, err := s.name()
		if err != nil {
			return 0, 0, false
		}
		s.space()
		s.accept('=')
		s.space()
		if _, err := s.quoted(found); err != nil {
			return 0, 0, false
		}
		if found == name {
			return start, s.pos, true
		}
	}
}
