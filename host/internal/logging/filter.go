package logging

import (
	"fmt"
	"path"
	"strings"
)

// Filter gives the loggers whose name matches a level of their own.
type Filter struct {
	Level Level
	// Match is a pattern with the wildcards of a shell; what it matches may stand anywhere in the name.
	Match string
}

// Filters are tried in order; the first that matches counts.
type Filters []Filter

// ParseFilters reads filters of the form LEVEL:MATCH, parted by blanks, such as "1:locking 3:rpc".
func ParseFilters(text string) (Filters, error) {
	var out Filters
	for _, word := range strings.Fields(text) {
		digit, match, ok := strings.Cut(word, ":")
		if !ok {
			return nil, fmt.Errorf("log filter %q: use LEVEL:MATCH, such as 1:locking", word)
		}
		level, err := parseLevel(digit)
		if err != nil {
			return nil, fmt.Errorf("log filter %q: %w", word, err)
		}
		// A plus sign once asked for stack traces, and is still allowed.
		match = strings.TrimPrefix(match, "+")
		if match == "" || strings.Contains(match, ":") {
			return nil, fmt.Errorf("log filter %q: %q is no part of a source's name", word, match)
		}
		out = append(out, Filter{Level: level, Match: strings.Trim(match, "*")})
	}
	return out, nil
}

// String is the form that ParseFilters reads.
func (f Filter) String() string {
	if f.Match == "" {
		return fmt.Sprintf("%d:*", f.Level)
	}
	return fmt.Sprintf("%d:*%s*", f.Level, f.Match)
}

// String is the form that ParseFilters reads.
func (f Filters) String() string {
	words := make([]string, len(f))
	for i := range f {
		words[i] = f[i].String()
	}
	return strings.Join(words, " ")
}

func (f Filter) matches(name string) bool {
	ok, err := path.Match("*"+f.Match+"*", name)
	if err != nil {
		// A bracket that is not closed stands for itself.
		return strings.Contains(name, f.Match)
	}
	return ok
}

// levelOf returns the level of the first filter that matches a name, or the general one.
func (f Filters) levelOf(name string, general Level) Level {
	for _, filter := range f {
		if filter.matches(name) {
			return filter.Level
		}
	}
	return general
}
