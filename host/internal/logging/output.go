package logging

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Destination is a kind of output.
type Destination string

// Destinations.
const (
	Stderr   Destination = "stderr"
	File     Destination = "file"
	Syslog   Destination = "syslog"
	Journald Destination = "journald"
)

// hasTarget says which destinations take a target, such as a path.
var hasTarget = map[Destination]bool{Stderr: false, File: true, Syslog: true, Journald: false}

// Output is one place to write to.
type Output struct {
	// Level is the least that is written there.
	Level       Level
	Destination Destination
	// Target is a file's absolute path, or the name under which syslog gets the messages.
	Target string
}

// Outputs are written to all at once.
type Outputs []Output

// ParseOutputs reads outputs parted by blanks: LEVEL:stderr, LEVEL:file:PATH, LEVEL:syslog:NAME and LEVEL:journald. The last of two with the
// same destination and target counts. A path becomes absolute.
func ParseOutputs(text string) (Outputs, error) {
	var out Outputs
	for _, word := range strings.Fields(text) {
		o, err := parseOutput(word)
		if err != nil {
			return nil, fmt.Errorf("log output %q: %w", word, err)
		}
		same := slices.IndexFunc(out, func(p Output) bool { return p.Destination == o.Destination && p.Target == o.Target })
		if same >= 0 {
			out[same] = o
			continue
		}
		out = append(out, o)
	}
	return out, nil
}

func parseOutput(word string) (Output, error) {
	digit, rest, ok := strings.Cut(word, ":")
	if !ok {
		return Output{}, fmt.Errorf("use LEVEL:stderr, LEVEL:file:PATH, LEVEL:syslog:NAME or LEVEL:journald")
	}
	level, err := parseLevel(digit)
	if err != nil {
		return Output{}, err
	}
	destination, target, targeted := strings.Cut(rest, ":")
	o := Output{Level: level, Destination: Destination(destination), Target: target}
	wants, known := hasTarget[o.Destination]
	switch {
	case !known:
		return o, fmt.Errorf("destination %q: use stderr, file, syslog or journald", destination)
	case targeted != wants && wants:
		return o, fmt.Errorf("use %s:%s:%s", digit, destination, map[Destination]string{File: "PATH", Syslog: "NAME"}[o.Destination])
	case targeted != wants:
		return o, fmt.Errorf("%s takes nothing behind it", destination)
	case strings.Contains(target, ":"):
		return o, fmt.Errorf("%q must not contain a colon", target)
	case o.Destination == File && target == "":
		return o, fmt.Errorf("a file needs a path")
	case o.Destination == File:
		if o.Target, err = filepath.Abs(target); err != nil {
			return o, fmt.Errorf("find folder: %w", err)
		}
	}
	return o, nil
}

// String is the form that ParseOutputs reads.
func (o Output) String() string {
	if hasTarget[o.Destination] {
		return fmt.Sprintf("%d:%s:%s", o.Level, o.Destination, o.Target)
	}
	return fmt.Sprintf("%d:%s", o.Level, o.Destination)
}

// String is the form that ParseOutputs reads.
func (o Outputs) String() string {
	words := make([]string, len(o))
	for i := range o {
		words[i] = o[i].String()
	}
	return strings.Join(words, " ")
}

// Has reports whether one of them has the destination.
func (o Outputs) Has(d Destination) bool {
	return slices.ContainsFunc(o, func(p Output) bool { return p.Destination == d })
}

// open makes the output ready. Syslog and journald are looked for when there is something to write, as they may start later.
func (o Output) open(stderr io.Writer) (writer, error) {
	switch o.Destination {
	case File:
		f, err := os.OpenFile(o.Target, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		return &textWriter{out: f, closer: f}, nil
	case Syslog:
		return &syslogWriter{tag: o.Target}, nil
	case Journald:
		return journaldWriter{}, nil
	case Stderr:
	}
	return &textWriter{out: stderr}, nil
}
