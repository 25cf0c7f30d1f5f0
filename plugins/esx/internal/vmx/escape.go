package vmx

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// encodingKey is the entry that names a file's encoding.
const (
	encodingKey  = ".encoding"
	encodingUTF8 = "UTF-8"
)

// decode turns a file's text into UTF-8. The name of the encoding is read as ASCII, which all encodings that VMware writes contain.
func decode(text string) (string, error) {
	name := encodingUTF8
	for line := range strings.Lines(text) {
		if entry, problem := parseLine(strings.TrimSpace(line)); problem == "" && strings.EqualFold(entry.Key, encodingKey) {
			name = entry.Value
		}
	}
	if strings.EqualFold(name, encodingUTF8) || strings.EqualFold(name, "UTF8") {
		if !utf8.ValidString(text) {
			return "", verr.New(confSyntax, "the file is not valid UTF-8")
		}
		return text, nil
	}
	encoding, err := htmlindex.Get(name)
	if err != nil {
		return "", verr.New(verr.ConfigUnsupported, "VMX entry '%s' has unknown encoding '%s'", encodingKey, name)
	}
	decoded, err := encoding.NewDecoder().String(text)
	if err != nil {
		return "", verr.New(confSyntax, "read the file as %q: %w", name, err)
	}
	if len(decoded) > 4*maxText || !utf8.ValidString(decoded) {
		return "", verr.New(confSyntax, "the file is not valid %s", name)
	}
	return decoded, nil
}

// escapePipe writes quotes, pipes and control characters, which would end a value or a line, as | and two hexadecimal digits.
func escapePipe(s string) string {
	if !strings.ContainsFunc(s, mustEscape) {
		return s
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, r := range s {
		if mustEscape(r) {
			b.WriteByte('|')
			b.WriteByte(digits[r>>4])
			b.WriteByte(digits[r&15])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// mustEscape says whether a value cannot have the rune as it is.
func mustEscape(r rune) bool { return r == '"' || r == '|' || r < ' ' || r == 0x7f }

// unescapePipe resolves |XX. What is no escape stays, and so does the whole value if its bytes would be no text.
func unescapePipe(s string) string { return unescape(s, '|') }

// UnescapeName resolves the %XX of a name as the hypervisor shows it.
func UnescapeName(name string) string { return unescapePercent(name) }

// EscapeName writes a name as the hypervisor wants it: with %25, %2f and %5c for what a name cannot hold.
func EscapeName(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
}

// unescapePercent resolves %XX, as VMware writes slashes in names.
func unescapePercent(s string) string { return unescape(s, '%') }

func unescape(s string, mark byte) string {
	if strings.IndexByte(s, mark) < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == mark && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(b))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	if !utf8.Valid(out) {
		return s
	}
	return string(out)
}
