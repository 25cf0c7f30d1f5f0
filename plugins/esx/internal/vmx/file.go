package vmx

import (
	"strings"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of a file, in bytes and entries; the largest that VMware writes are far below.
const (
	maxText    = 1 << 20
	maxLine    = 64 << 10
	maxEntries = 1 << 14
)

// confSyntax is libvirt's VIR_ERR_CONF_SYNTAX.
const confSyntax verr.Code = 31

// Entry is one line of a file: a key as it was written and its value with escapes resolved.
type Entry struct {
	Key, Value string
}

// File is a .vmx file: entries in their order. The zero value is an empty file.
type File struct {
	entries []Entry
	// places are the entries by their keys in lower case.
	places map[string]int
}

// ParseFile reads a file of at most 1 MiB in the encoding that its entry .encoding names, UTF-8 without one. Of entries with the same
// key the last counts. It fails with VIR_ERR_CONF_SYNTAX and the line for what is no entry, comment or empty line.
func ParseFile(text string) (*File, error) {
	if len(text) > maxText {
		return nil, verr.New(confSyntax, "file of %d bytes is longer than %d", len(text), maxText)
	}
	text, err := decode(text)
	if err != nil {
		return nil, err
	}
	f := &File{}
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		if len(line) > maxLine {
			return nil, verr.New(confSyntax, "line %d: longer than %d bytes", number, maxLine)
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		entry, problem := parseLine(line)
		if problem != "" {
			return nil, verr.New(confSyntax, "line %d: %s", number, problem)
		}
		f.Set(entry.Key, entry.Value)
		if len(f.entries) > maxEntries {
			return nil, verr.New(confSyntax, "line %d: more than %d entries", number, maxEntries)
		}
	}
	return f, nil
}

// parseLine reads an entry, or says what is wrong with it.
func parseLine(line string) (Entry, string) {
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return Entry{}, "expecting an assignment"
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return !keyRune(r) }) {
		return Entry{}, "expecting a name"
	}
	if !strings.HasPrefix(value, `"`) {
		value, _, _ = strings.Cut(value, "#")
		value = strings.TrimSpace(value)
		if strings.Contains(value, `"`) {
			return Entry{}, "unexpected quote"
		}
		return Entry{key, unescapePipe(value)}, ""
	}
	value, rest, ok := strings.Cut(value[1:], `"`)
	if !ok {
		return Entry{}, "unterminated string"
	}
	if rest = strings.TrimSpace(rest); rest != "" && rest[0] != '#' {
		return Entry{}, "unexpected text after the string"
	}
	return Entry{key, unescapePipe(value)}, ""
}

// keyRune says whether a key may have the rune.
func keyRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	}
	return r < utf8.RuneSelf && strings.ContainsRune("._:-[]/", r)
}

// Get returns the value of a key, whatever its case, and whether the file has it.
func (f *File) Get(key string) (string, bool) {
	at, ok := f.places[strings.ToLower(key)]
	if !ok {
		return "", false
	}
	return f.entries[at].Value, true
}

// Set gives a key a value: in its place if the file has the key, else at the end.
func (f *File) Set(key, value string) {
	lower := strings.ToLower(key)
	if at, ok := f.places[lower]; ok {
		f.entries[at].Value = value
		return
	}
	if f.places == nil {
		f.places = map[string]int{}
	}
	f.places[lower] = len(f.entries)
	f.entries = append(f.entries, Entry{key, value})
}

// Entries returns the entries in their order.
func (f *File) Entries() []Entry { return append([]Entry(nil), f.entries...) }

// String prints the file in UTF-8, whatever its entry .encoding was, one quoted and escaped value a line. ParseFile reads it back to the
// same entries.
func (f *File) String() string {
	var b strings.Builder
	for _, e := range f.entries {
		if strings.EqualFold(e.Key, encodingKey) {
			e.Value = encodingUTF8
		}
		b.WriteString(e.Key)
		b.WriteString(` = "`)
		b.WriteString(escapePipe(e.Value))
		b.WriteString("\"\n")
	}
	return b.String()
}
