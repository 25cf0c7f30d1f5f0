package dog

import (
	"fmt"
	"strconv"
	"strings"
)

// Room is a cluster's, in bytes; copies of data count as often as they are there.
type Room struct {
	Capacity, Allocation, Available uint64
}

// parseRoom reads what `dog node info -r` prints: a line for each node, and one for all: "Total SIZE USED AVAIL USE% VDISIZE", in which AVAIL
// is not there before version 0.6.
func parseRoom(text string) (Room, error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 4 || words[0] != "Total" {
			continue
		}
		size, err := strconv.ParseUint(words[1], 10, 63)
		used, err2 := strconv.ParseUint(words[2], 10, 63)
		if err != nil || err2 != nil || used > size {
			return Room{}, fmt.Errorf("'%s' tells no sizes", strings.TrimSpace(line))
		}
		r := Room{size, used, size - used}
		if free, err := strconv.ParseUint(words[3], 10, 63); err == nil {
			r.Available = min(free, r.Available)
		}
		return r, nil
	}
	return Room{}, fmt.Errorf("dog told of no sizes: %q", text[:min(len(text), maxQuote)])
}

// maxQuote is how much of an output that cannot be read is told.
const maxQuote = 200

// Kinds of images.
const (
	kindImage    = '='
	kindClone    = 'c'
	kindSnapshot = 's'
)

// Image is an image, or a snapshot of one.
type Image struct {
	Name string
	// Snapshot is the number of a snapshot; an image has none whatever dog says of it.
	Snapshot string
	// Tag is a snapshot's name, or empty.
	Tag string
	// Size and Used are in bytes.
	Size, Used uint64
	// Made is when, in seconds since 1970.
	Made int64
}

// parseImages reads what `dog vdi list -r` prints, a line for each image and snapshot: KIND NAME ID SIZE USED SHARED TIME VDI, and after them
// nothing (version 0.3), TAG (0.4), COPIES TAG (0.5 to 0.9), or COPIES TAG SHIFT (1.0). Spaces and backslashes in names have a backslash
// before them. odd are lines that are none of these.
func parseImages(text string) (all []Image, odd []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		i, err := parseImage(line)
		if err != nil {
			odd = append(odd, line)
			continue
		}
		all = append(all, i)
	}
	return all, odd
}

func parseImage(line string) (Image, error) {
	bad := fmt.Errorf("%q tells of no image", line[:min(len(line), maxQuote)])
	if len(line) < 3 || line[1] != ' ' || !strings.ContainsRune(string([]rune{kindImage, kindClone, kindSnapshot}), rune(line[0])) {
		return Image{}, bad
	}
	name, rest, ok := cutName(line[2:])
	words := strings.Split(rest, " ")
	if !ok || name == "" || len(words) < 6 {
		return Image{}, bad
	}
	i := Image{Name: name}
	var err [3]error
	i.Size, err[0] = strconv.ParseUint(words[1], 10, 63)
	i.Used, err[1] = strconv.ParseUint(words[2], 10, 63)
	i.Made, err[2] = strconv.ParseInt(words[4], 10, 64)
	for _, e := range err {
		if e != nil {
			return Image{}, bad
		}
	}
	if line[0] != kindSnapshot {
		return i, nil
	}
	i.Snapshot = words[0]
	switch more := words[6:]; len(more) {
	case 0:
	case 1:
		i.Tag = more[0]
	default:
		i.Tag = more[1]
	}
	return i, nil
}

// cutName reads a name up to the first space that has no backslash before it.
func cutName(text string) (name, rest string, ok bool) {
	var b strings.Builder
	for n := 0; n < len(text); n++ {
		switch text[n] {
		case ' ':
			return b.String(), text[n+1:], true
		case '\\':
			if n++; n == len(text) {
				return "", "", false
			}
		}
		b.WriteByte(text[n])
	}
	return "", "", false
}
