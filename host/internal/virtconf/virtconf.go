// Package virtconf reads libvirt's configuration files: the format that virtlockd.conf, qemu-lockd.conf and their like share, and
// the settings of those two that a lock daemon and its core need.
//
// A file is a list of assignments, one a line or parted by semicolons, with comments from # to the end of the line:
//
//	max_clients = 1024
//	log_outputs = "3:syslog:virtlockd"      # or '...', or """...""" over several lines
//	names = [ "a", "b", [ 1, 2 ], ]
//
// The first assignment of a name counts, and a name that nobody asks for is no error, as in libvirt; both are told as warnings,
// because they are mostly mistakes. Every error names file and line. What a file may hold, and what is refused, was taken from a real
// virtlockd 9.0.0 by giving it files; the public description of the settings is in the comments of libvirt's own configuration files.
//
// Files and settings are values: whoever reads one owns it, and reading is safe concurrently.
package virtconf

import (
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// maxFile is the largest file in bytes; virtlockd reads as much.
	maxFile = 10 << 20
	// maxDepth is how deep lists may be nested.
	maxDepth = 64
)

// ErrSyntax says that a file is not in the format.
var ErrSyntax = errors.New("syntax error")

// Kind says what a value is.
type Kind int

// Kinds of values.
const (
	Number Kind = iota + 1
	String
	List
)

// String names the kind as a person would.
func (k Kind) String() string {
	switch k {
	case Number:
		return "a number"
	case String:
		return "a string"
	case List:
		return "a list"
	}
	return "nothing"
}

// Value is what stands on the right of an assignment.
type Value struct {
	Kind Kind
	// Text is a string's content, or a number's digits with its sign. A number may be of any size: the setting decides.
	Text string
	// Items are a list's.
	Items []Value
}

// Assignment is one statement of a file.
type Assignment struct {
	Name  string
	Line  int
	Value Value
}

// File is a file that was read. The zero File has no assignments.
type File struct {
	Path        string
	Assignments []Assignment
}

// Load reads a file. The error wraps fs.ErrNotExist if there is none.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// At puts the place of a name's assignment before an error, or the file alone if the name is not assigned. A nil error stays nil.
func (f *File) At(name string, err error) error {
	if err == nil {
		return nil
	}
	if a := f.find(name); a != nil {
		return fmt.Errorf("%s:%d: %s: %w", f.Path, a.Line, name, err)
	}
	return fmt.Errorf("%s: %s: %w", f.Path, name, err)
}

// Warnings are sentences about names that are not among the known ones, and about names that are assigned again.
func (f *File) Warnings(known ...string) []string {
	var out []string
	lines := map[string]int{}
	is := map[string]bool{}
	for _, name := range known {
		is[name] = true
	}
	for _, a := range f.Assignments {
		switch first, again := lines[a.Name]; {
		case !is[a.Name]:
			out = append(out, fmt.Sprintf("%s:%d: %s is no setting that is known here: it is ignored", f.Path, a.Line, a.Name))
		case again:
			out = append(out, fmt.Sprintf("%s:%d: %s is set in line %d already, which counts", f.Path, a.Line, a.Name, first))
		default:
			lines[a.Name] = a.Line
		}
	}
	return out
}

// find returns the assignment that counts, or nil.
func (f *File) find(name string) *Assignment {
	for i := range f.Assignments {
		if f.Assignments[i].Name == name {
			return &f.Assignments[i]
		}
	}
	return nil
}
