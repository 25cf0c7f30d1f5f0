// Package dspath checks and writes paths of files in datastores, "[datastore] folder/file".
//
// Hosts cut blanks off the ends of such a path, walk through "..", and end the datastore's name at the first "]"; so what could be taken
// for another file than was meant is refused. Functions are pure.
package dspath

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits in bytes.
const (
	maxName = 255
	maxPath = 2048
)

// Check refuses, with InvalidArg, what is no path of a file within a datastore: "folder/file", without any "..".
func Check(file string) error {
	var reason string
	switch {
	case file == "":
		reason = "is empty"
	case len(file) > maxPath:
		reason = fmt.Sprintf("has more than %d bytes", maxPath)
	case !utf8.ValidString(file):
		reason = "is no UTF-8"
	case strings.ContainsFunc(file, unicode.IsControl):
		reason = "has control characters"
	case strings.HasPrefix(file, "/"):
		reason = "is absolute"
	}
	for name := range strings.SplitSeq(file, "/") {
		if reason != "" {
			break
		}
		reason = odd(name)
	}
	if reason == "" {
		return nil
	}
	if len(file) > maxPath {
		file = strings.ToValidUTF8(file[:maxName], "") + "..."
	}
	return verr.New(verr.InvalidArg, "%q is no path of a volume in a datastore: it %s", file, reason).In(verr.FromStorage)
}

// odd says what is wrong with one part of a path.
func odd(name string) string {
	switch {
	case name == "":
		return "has an empty part"
	case name == "." || name == "..":
		return fmt.Sprintf("has a part %q", name)
	case len(name) > maxName:
		return fmt.Sprintf("has a part with more than %d bytes", maxName)
	case strings.TrimSpace(name) != name:
		return "has a part that begins or ends with a blank"
	}
	return ""
}

// CheckDatastore refuses, with InvalidArg, the name of a datastore that no path can have.
func CheckDatastore(name string) error {
	if name == "" || strings.ContainsAny(name, "[]\x00\n") || strings.TrimSpace(name) != name {
		return verr.New(verr.InvalidArg, "%q is no name that a path of a datastore can have", name).In(verr.FromStorage)
	}
	return nil
}

// Join writes the path of a file in a datastore, or of the datastore itself for an empty file.
func Join(datastore, file string) string {
	if file == "" {
		return "[" + datastore + "]"
	}
	return "[" + datastore + "] " + file
}

// Within reads a path and returns the file, if it is in a datastore. The file is not checked.
func Within(datastore, text string) (file string, ok bool) {
	rest, ok := strings.CutPrefix(text, "["+datastore+"]")
	return strings.TrimSuffix(strings.TrimPrefix(rest, " "), "/"), ok
}

// Split splits a file's path into its folder, which is empty for a file at the top, and its name.
func Split(file string) (folder, name string) {
	folder, name = path.Split(file)
	return strings.TrimSuffix(folder, "/"), name
}

// Child is the path of a file in a folder, which is empty for the top.
func Child(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}
