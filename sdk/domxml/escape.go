package domxml

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxReference is the longest reference that is looked for, between '&' and ';'.
const maxReference = 10

// entities are the references by name that XML has without a document type.
var entities = map[string]string{"lt": "<", "gt": ">", "amp": "&", "apos": "'", "quot": "\""}

// checkReferences fails on a reference that is not one of XML's five or a character.
func (s *scanner) checkReferences(raw string) error {
	for {
		i := strings.IndexByte(raw, '&')
		if i < 0 {
			return nil
		}
		raw = raw[i+1:]
		_, n, ok := reference(raw)
		if !ok {
			return s.errorf("reference &%.*s is not known", maxReference, raw)
		}
		raw = raw[n:]
	}
}

// reference reads what follows an '&', up to and with the ';', and returns its meaning and length.
func reference(rest string) (value string, length int, ok bool) {
	n := strings.IndexByte(rest[:min(len(rest), maxReference+1)], ';')
	if n < 1 {
		return "", 0, false
	}
	name := rest[:n]
	if v, ok := entities[name]; ok {
		return v, n + 1, true
	}
	digits, base := strings.TrimPrefix(name, "#x"), 16
	if len(digits) == len(name) {
		digits, base = strings.TrimPrefix(name, "#"), 10
	}
	if len(digits) == len(name) || digits == "" || digits[0] == '+' || digits[0] == '-' {
		return "", 0, false
	}
	r, err := strconv.ParseUint(digits, base, 32)
	if err != nil || !isChar(rune(r)) {
		return "", 0, false
	}
	return string(rune(r)), n + 1, true
}

func isChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && utf8.ValidRune(r) && r != 0xfffe && r != 0xffff
}

// unescape resolves the references of a text that the scanner has passed.
func unescape(raw string) string {
	i := strings.IndexByte(raw, '&')
	if i < 0 {
		return raw
	}
	var b strings.Builder
	b.Grow(len(raw))
	for ; i >= 0; i = strings.IndexByte(raw, '&') {
		value, n, ok := reference(raw[i+1:])
		if !ok {
			break
		}
		b.WriteString(raw[:i])
		b.WriteString(value)
		raw = raw[i+1+n:]
	}
	b.WriteString(raw)
	return b.String()
}

// escaping says for each ASCII character what stands for it, or nothing if it stands for itself.
type escaping [utf8.RuneSelf]string

// How libvirt escapes text and attributes, and how libxml2, which prints <metadata> for it, does.
var (
	plainText  = escaping{'<': "&lt;", '>': "&gt;", '&': "&amp;", '\'': "&apos;", '"': "&quot;", '\r': "&#13;"}
	plainValue = escaping{
		'<': "&lt;", '>': "&gt;", '&': "&amp;", '\'': "&apos;", '"': "&quot;", '\r': "&#13;", '\n': "&#10;", '\t': "&#9;",
	}
	metaText  = escaping{'<': "&lt;", '>': "&gt;", '&': "&amp;", '\r': "&#13;"}
	metaValue = escaping{
		'<': "&lt;", '>': "&gt;", '&': "&amp;", '"': "&quot;", '\r': "&#13;", '\n': "&#10;", '\t': "&#9;",
	}
)

// escape appends a text.
func (e *escaping) escape(out []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf || e[s[i]] == "" {
			continue
		}
		out = append(out, s[from:i]...)
		out = append(out, e[s[i]]...)
		from = i + 1
	}
	return append(out, s[from:]...)
}
