package virtconf

import (
	"bytes"
	"fmt"
	"strings"
)

// longQuote opens and closes a string that may have several lines.
const longQuote = `"""`

// Parse reads the content of the file at path, which is only named in errors.
func Parse(path string, data []byte) (*File, error) {
	p := &parser{data: data, line: 1}
	f := &File{Path: path}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", path, maxFile, ErrSyntax)
	}
	if err := p.file(f); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, p.line, err)
	}
	return f, nil
}

// parser reads from the front of data.
type parser struct {
	data []byte
	line int
}

func syntax(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrSyntax)...)
}

// file reads statements until the end.
func (p *parser) file(f *File) error {
	for p.skipLines(); len(p.data) > 0; p.skipLines() {
		a, err := p.assignment()
		if err != nil {
			return err
		}
		f.Assignments = append(f.Assignments, a)
		if err := p.separator(); err != nil {
			return err
		}
	}
	return nil
}

// peek is the next byte, or 0 at the end.
func (p *parser) peek() byte {
	if len(p.data) == 0 {
		return 0
	}
	return p.data[0]
}

func (p *parser) skip(n int) { p.data = p.data[n:] }

// blanks skips blanks within a line.
func (p *parser) blanks() {
	p.data = bytes.TrimLeft(p.data, " \t")
}

// newline skips the end of one line and reports whether there was one. A carriage return ends a line too.
func (p *parser) newline() bool {
	switch {
	case bytes.HasPrefix(p.data, []byte("\r\n")):
		p.skip(2)
	case p.peek() == '\n' || p.peek() == '\r':
		p.skip(1)
	default:
		return false
	}
	p.line++
	return true
}

// space skips blanks and ends of lines.
func (p *parser) space() {
	for p.blanks(); p.newline(); p.blanks() {
	}
}

// skipLines skips blanks, ends of lines and comments.
func (p *parser) skipLines() {
	for p.space(); p.comment(); p.space() {
	}
}

// comment skips a comment up to the end of its line and reports whether there was one.
func (p *parser) comment() bool {
	if p.peek() != '#' {
		return false
	}
	end := bytes.IndexAny(p.data, "\r\n")
	if end < 0 {
		end = len(p.data)
	}
	p.skip(end)
	return true
}

// separator reads what parts two statements.
func (p *parser) separator() error {
	p.blanks()
	if p.peek() == ';' {
		p.skip(1)
		return nil
	}
	if len(p.data) == 0 || p.comment() || p.newline() {
		return nil
	}
	return syntax("unexpected %s after the value, expected the end of the line", p.shown())
}

// shown is the next character for a message.
func (p *parser) shown() string {
	if len(p.data) == 0 {
		return "end of file"
	}
	if p.peek() == '\n' || p.peek() == '\r' {
		return "end of line"
	}
	return fmt.Sprintf("%q", p.data[:1])
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// assignment reads `name = value`.
func (p *parser) assignment() (Assignment, error) {
	if !letter(p.peek()) {
		return Assignment{}, syntax("unexpected %s, expected the name of a setting", p.shown())
	}
	n := 1
	for n < len(p.data) && (letter(p.data[n]) || digit(p.data[n]) || p.data[n] == '_') {
		n++
	}
	a := Assignment{Name: string(p.data[:n]), Line: p.line}
	p.skip(n)
	p.blanks()
	if p.peek() != '=' {
		return a, syntax("unexpected %s, expected = after %s", p.shown(), a.Name)
	}
	p.skip(1)
	p.blanks()
	var err error
	a.Value, err = p.value(0)
	return a, err
}

// value reads a number, a string or a list.
func (p *parser) value(depth int) (Value, error) {
	switch c := p.peek(); {
	case c == '"' || c == '\'':
		return p.text()
	case c == '[':
		return p.list(depth + 1)
	case digit(c) || c == '-' || c == '+':
		return p.number()
	}
	return Value{}, syntax("unexpected %s, expected a number, a string in quotes or a list in brackets", p.shown())
}

func (p *parser) number() (Value, error) {
	n := 0
	if !digit(p.peek()) {
		n = 1
	}
	from := n
	for n < len(p.data) && digit(p.data[n]) {
		n++
	}
	if n == from {
		return Value{}, syntax("a sign without a number")
	}
	v := Value{Kind: Number, Text: string(p.data[:n])}
	p.skip(n)
	return v, nil
}

// text reads a string; it has no escapes.
func (p *parser) text() (Value, error) {
	quote, long := p.data[:1], false
	if bytes.HasPrefix(p.data, []byte(longQuote)) {
		quote, long = []byte(longQuote), true
	}
	p.skip(len(quote))
	end := bytes.Index(p.data, quote)
	if end < 0 || !long && bytes.ContainsAny(p.data[:end], "\r\n") {
		return Value{}, syntax("a string without its closing %s", quote)
	}
	v := Value{Kind: String, Text: string(p.data[:end])}
	if strings.Contains(v.Text, "\x00") {
		return Value{}, syntax("a string with a NUL character")
	}
	p.line += strings.Count(v.Text, "\n")
	p.skip(end + len(quote))
	return v, nil
}

// list reads values parted by commas, over several lines if need be; one comma may follow the last.
func (p *parser) list(depth int) (Value, error) {
	v := Value{Kind: List}
	if depth > maxDepth {
		return v, syntax("lists within lists, more than %d deep", maxDepth)
	}
	p.skip(1)
	for p.space(); p.peek() != ']'; p.space() {
		item, err := p.value(depth)
		if err != nil {
			return v, err
		}
		v.Items = append(v.Items, item)
		p.space()
		if p.peek() == ',' {
			p.skip(1)
			continue
		}
		if p.peek() != ']' {
			return v, syntax("unexpected %s in a list, expected a comma or ]", p.shown())
		}
	}
	p.skip(1)
	return v, nil
}
