package domxml

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits on documents from outside.
const (
	// MaxText is the largest document in bytes.
	MaxText = 4 << 20
	// MaxDepth is the deepest nesting of elements.
	MaxDepth = 64
	// MaxElements is the largest number of elements in a document.
	MaxElements = 1 << 16
	// MaxAttributes is the largest number of attributes of one element.
	MaxAttributes = 128
)

// tokenKind says what a token is.
type tokenKind int

const (
	startTag tokenKind = iota
	endTag
	text
	comment
)

// token is one piece of a document. Its strings are parts of the document's text.
type token struct {
	kind tokenKind
	// name of the element, with its prefix.
	name string
	// attrs of a start tag; reused by the next call of next.
	attrs []attribute
	// empty is a start tag that closes itself; no end tag follows.
	empty bool
	// raw is a text with its references, unless cdata.
	raw   string
	cdata bool
	// start and end are the token's place in the document, in bytes.
	start, end int
}

// attribute is a name and its value with references unresolved.
type attribute struct {
	name, raw string
}

// scanner reads a document strictly, one token at a time.
type scanner struct {
	doc      string
	pos      int
	open     []string
	attrs    []attribute
	elements int
	rooted   bool
}

// newScanner checks the document's size and characters and skips its XML declaration.
func newScanner(doc string) (*scanner, error) {
	s := &scanner{doc: doc}
	if len(doc) > MaxText {
		return nil, verr.New(verr.XMLError, "document of %d bytes is larger than %d", len(doc), MaxText)
	}
	for i := 0; i < len(doc); i++ {
		if c := doc[i]; c < ' ' && c != '\n' && c != '\t' && c != '\r' {
			s.pos = i
			return nil, s.errorf("control character 0x%02x is not allowed", c)
		}
	}
	if !utf8.ValidString(doc) {
		return nil, verr.New(verr.XMLError, "document is not valid UTF-8")
	}
	s.pos += len(doc) - len(strings.TrimPrefix(doc, "\ufeff"))
	return s, s.skipDeclaration()
}

// skipDeclaration skips <?xml ...?> at the very beginning; encodings other than UTF-8 and its subsets are refused.
func (s *scanner) skipDeclaration() error {
	rest := s.doc[s.pos:]
	if !strings.HasPrefix(rest, "<?xml") {
		return nil
	}
	end := strings.Index(rest, "?>")
	if end < 0 || len(rest) < 6 || !isSpace(rest[5]) {
		return s.errorf("xml declaration is malformed")
	}
	if _, after, ok := strings.Cut(rest[:end], "encoding"); ok {
		name := strings.ToLower(strings.Trim(after, "= \t\r\n'\""))
		name, _, _ = strings.Cut(strings.ReplaceAll(name, "\"", "'"), "'")
		if name != "utf-8" && name != "us-ascii" && name != "ascii" {
			return s.errorf("encoding %q is not supported", name)
		}
	}
	s.pos += end + len("?>")
	return nil
}

// errorf makes an error that names the line of the present position.
func (s *scanner) errorf(format string, args ...any) error {
	line := 1 + strings.Count(s.doc[:min(s.pos, len(s.doc))], "\n")
	return verr.New(verr.XMLError, "line %d: "+format, append([]any{line}, args...)...)
}

// next returns the next token, or io.EOF after the root element and what may follow it.
func (s *scanner) next() (token, error) {
	for s.pos < len(s.doc) {
		if len(s.open) > 0 && s.doc[s.pos] != '<' {
			return s.text()
		}
		if isSpace(s.doc[s.pos]) {
			s.pos++
			continue
		}
		return s.markup()
	}
	switch {
	case len(s.open) > 0:
		return token{}, s.errorf("element %q is not closed", s.open[len(s.open)-1])
	case !s.rooted:
		return token{}, s.errorf("document is empty")
	}
	return token{}, io.EOF
}

// text reads character data up to the next tag.
func (s *scanner) text() (token, error) {
	start := s.pos
	n := strings.IndexByte(s.doc[start:], '<')
	if n < 0 {
		n = len(s.doc) - start
	}
	raw := s.doc[start : start+n]
	if strings.Contains(raw, "]]>") {
		return token{}, s.errorf("text contains ]]>")
	}
	if err := s.checkReferences(raw); err != nil {
		return token{}, err
	}
	s.pos += n
	return token{kind: text, raw: raw, start: start, end: s.pos}, nil
}

// markup reads what begins with '<' (or fails on text outside of the root).
func (s *scanner) markup() (token, error) {
	rest := s.doc[s.pos:]
	switch {
	case strings.HasPrefix(rest, "<!--"):
		return s.comment()
	case strings.HasPrefix(rest, "<![CDATA["):
		return s.cdata()
	case strings.HasPrefix(rest, "<!"):
		return token{}, s.errorf("document type declarations are not allowed")
	case strings.HasPrefix(rest, "<?"):
		return token{}, s.errorf("processing instructions are not allowed")
	case strings.HasPrefix(rest, "</"):
		return s.endTag()
	case rest[0] == '<':
		return s.startTag()
	}
	return token{}, s.errorf("text outside of the root element")
}

func (s *scanner) comment() (token, error) {
	start := s.pos
	body := s.doc[start+len("<!--"):]
	n := strings.Index(body, "--")
	if n < 0 || !strings.HasPrefix(body[n:], "-->") {
		return token{}, s.errorf("comment is malformed")
	}
	s.pos += len("<!--") + n + len("-->")
	return token{kind: comment, raw: s.doc[start:s.pos], start: start, end: s.pos}, nil
}

func (s *scanner) cdata() (token, error) {
	start := s.pos
	body := s.doc[start+len("<![CDATA["):]
	n := strings.Index(body, "]]>")
	if n < 0 || len(s.open) == 0 {
		return token{}, s.errorf("CDATA section is malformed")
	}
	s.pos += len("<![CDATA[") + n + len("]]>")
	return token{kind: text, raw: body[:n], cdata: true, start: start, end: s.pos}, nil
}

func (s *scanner) endTag() (token, error) {
	start := s.pos
	s.pos += len("</")
	name, err := s.name()
	if err != nil {
		return token{}, err
	}
	s.space()
	if !s.accept('>') {
		return token{}, s.errorf("end tag %q is malformed", name)
	}
	if n := len(s.open); n == 0 || s.open[n-1] != name {
		return token{}, s.errorf("end tag %q does not match", name)
	}
	s.open = s.open[:len(s.open)-1]
	return token{kind: endTag, name: name, start: start, end: s.pos}, nil
}

func (s *scanner) startTag() (token, error) {
	start := s.pos
	s.pos++
	name, err := s.name()
	if err != nil {
		return token{}, err
	}
	if len(s.open) == 0 && s.rooted {
		return token{}, s.errorf("element %q follows the root element", name)
	}
	s.rooted = true
	if s.elements++; s.elements > MaxElements {
		return token{}, s.errorf("more than %d elements", MaxElements)
	}
	if len(s.open) == MaxDepth {
		return token{}, s.errorf("elements are nested deeper than %d", MaxDepth)
	}
	if err := s.attributes(name); err != nil {
		return token{}, err
	}
	empty := s.accept('/')
	if !s.accept('>') {
		return token{}, s.errorf("start tag %q is malformed", name)
	}
	if !empty {
		s.open = append(s.open, name)
	}
	return token{kind: startTag, name: name, attrs: s.attrs, empty: empty, start: start, end: s.pos}, nil
}

// attributes reads the attributes of a start tag into s.attrs.
func (s *scanner) attributes(element string) error {
	s.attrs = s.attrs[:0]
	for {
		spaced := s.space()
		if s.pos >= len(s.doc) || s.doc[s.pos] == '>' || s.doc[s.pos] == '/' {
			return nil
		}
		if !spaced || len(s.attrs) == MaxAttributes {
			return s.errorf("start tag %q is malformed", element)
		}
		name, err := s.name()
		if err != nil {
			return err
		}
		for _, a := range s.attrs {
			if a.name == name {
				return s.errorf("attribute %q is given twice", name)
			}
		}
		s.space()
		if !s.accept('=') {
			return s.errorf("attribute %q has no value", name)
		}
		s.space()
		raw, err := s.quoted(name)
		if err != nil {
			return err
		}
		s.attrs = append(s.attrs, attribute{name: name, raw: raw})
	}
}

// quoted reads the value of an attribute.
func (s *scanner) quoted(name string) (string, error) {
	if s.pos >= len(s.doc) || s.doc[s.pos] != '\'' && s.doc[s.pos] != '"' {
		return "", s.errorf("value of attribute %q is not quoted", name)
	}
	n := strings.IndexByte(s.doc[s.pos+1:], s.doc[s.pos])
	if n < 0 {
		return "", s.errorf("value of attribute %q does not end", name)
	}
	raw := s.doc[s.pos+1 : s.pos+1+n]
	if strings.IndexByte(raw, '<') >= 0 {
		return "", s.errorf("value of attribute %q contains '<'", name)
	}
	if err := s.checkReferences(raw); err != nil {
		return "", err
	}
	s.pos += n + 2
	return raw, nil
}

// name reads the name of an element or attribute: at most one colon, not at an end.
func (s *scanner) name() (string, error) {
	start := s.pos
	for s.pos < len(s.doc) && isNameByte(s.doc[s.pos]) {
		s.pos++
	}
	name := s.doc[start:s.pos]
	prefix, local, prefixed := strings.Cut(name, ":")
	if !startsName(prefix) || prefixed && (!startsName(local) || strings.Contains(local, ":")) {
		s.pos = start
		return "", s.errorf("name %q is malformed", name)
	}
	return name, nil
}

// space skips white space and says whether there was any.
func (s *scanner) space() bool {
	start := s.pos
	for s.pos < len(s.doc) && isSpace(s.doc[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) accept(c byte) bool {
	if s.pos < len(s.doc) && s.doc[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '_' || c == '-' || c == '.' || c == ':' || c >= utf8.RuneSelf
}

func startsName(s string) bool {
	return s != "" && isNameByte(s[0]) && s[0] != '-' && s[0] != '.' && (s[0] < '0' || s[0] > '9')
}
