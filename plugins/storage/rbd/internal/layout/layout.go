// Package layout reads what librbd keeps of an image in its pool: the directory of names, the header with the size, and the map of
// objects that exist. With it a pool's images are described by two reads each, where opening one takes about twenty.
//
// The layout is that of image format 2, which every release of Ceph since 0.61 reads and writes; numbers are little-endian. Sources:
// https://docs.ceph.com/en/latest/dev/rbd-layering/ and Ceph's public headers cls/rbd and include/rbd_types.h. All functions are pure. Images are
// written by others: what does not parse is an error, and never more than what was read is believed.
package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Objects of a pool.
const (
	// Directory has a value for each name of an image, NamePrefix before the name: the image's id.
	Directory  = "rbd_directory"
	NamePrefix = "name_"
	// IDObject, before a name, has the image's id.
	IDObject = "rbd_id."
	// HeaderObject, before an id, has values about the image.
	HeaderObject = "rbd_header."
	// MapObject, before an id, has the map of objects.
	MapObject = "rbd_object_map."
)

// Features of images, and flags of their headers.
const (
	featureStriping  = 1 << 1
	featureObjectMap = 1 << 3
	flagMapInvalid   = 1 << 0
)

// maxOrder is the highest order of an image: objects of 32 MiB. maxStripes is more objects than anybody stripes an image over.
const (
	maxOrder   = 25
	maxStripes = 1 << 16
)

// HeaderKeys are the values of a header that Parse needs.
var HeaderKeys = []string{"size", "features", "flags", "order", "stripe_unit", "stripe_count"}

// errShort says that something is cut off.
var errShort = errors.New("it is cut off")

// Header is what a header says.
type Header struct {
	// Size is the capacity in bytes, Object the size of one object.
	Size, Object uint64
	// Unit is how many bytes go into one object before the next one's turn comes, of Stripes objects, which then begin anew until they
	// are full. An image that is not striped fills one after the other.
	Unit, Stripes uint64
	// Mapped says that there is a map of objects that is true.
	Mapped bool
}

// Parse reads a header's values.
func Parse(values map[string][]byte) (Header, error) {
	var h Header
	order := values["order"]
	if len(values["size"]) != 8 || len(values["features"]) != 8 || len(order) != 1 || order[0] > maxOrder {
		return h, errors.New("header of image is not complete")
	}
	h.Size, h.Object = binary.LittleEndian.Uint64(values["size"]), 1<<order[0]
	if h.Size > math.MaxInt64 {
		return h, fmt.Errorf("header of image has size %d", h.Size)
	}
	features := binary.LittleEndian.Uint64(values["features"])
	h.Mapped = features&featureObjectMap != 0
	h.Unit, h.Stripes = h.Object, 1
	if unit, count := values["stripe_unit"], values["stripe_count"]; features&featureStriping != 0 && len(unit) == 8 && len(count) == 8 {
		h.Unit, h.Stripes = binary.LittleEndian.Uint64(unit), binary.LittleEndian.Uint64(count)
	}
	if h.Unit == 0 || h.Object%h.Unit != 0 || h.Stripes == 0 || h.Stripes > maxStripes {
		return h, fmt.Errorf("header of image has stripes of %d bytes over %d objects", h.Unit, h.Stripes)
	}
	if flags := values["flags"]; len(flags) == 8 && binary.LittleEndian.Uint64(flags)&flagMapInvalid != 0 {
		h.Mapped = false
	}
	return h, nil
}

// MapSize is the size of the map in bytes, at most.
func (h Header) MapSize() int {
	const perByte, around = 4, 1 << 10
	n := h.objects()/perByte + around
	return int(n + n/1024) // checksums
}

// objects is how many there are at most.
func (h Header) objects() uint64 { return (h.Size/(h.Object*h.Stripes) + 1) * h.Stripes }

// within returns how many bytes of an object are within the image.
func (h Header) within(object uint64) uint64 {
	set, row := h.Object*h.Stripes, h.Unit*h.Stripes
	begin := object / h.Stripes * set
	if begin >= h.Size {
		return 0
	}
	rest := min(h.Size-begin, set)
	before := object % h.Stripes * h.Unit
	last := rest % row
	return rest/row*h.Unit + min(last-min(last, before), h.Unit)
}

// String reads a string with its length before it.
func String(data []byte) (string, error) {
	if len(data) < 4 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-4) {
		return "", fmt.Errorf("read string: %w", errShort)
	}
	return string(data[4 : 4+binary.LittleEndian.Uint32(data)]), nil
}

// Allocated reads a map of objects and returns how many bytes those take that exist.
func (h Header) Allocated(data []byte) (uint64, error) {
	// The map is a length, a header of that length (two bytes of version, a length, a number of objects), two bits for each object, the
	// first of them the highest of a byte, and checksums. 0 is an object that does not exist.
	const fixed, header = 18, 14
	if len(data) < fixed || binary.LittleEndian.Uint32(data) != header {
		return 0, fmt.Errorf("read map of objects: %w", errShort)
	}
	n := binary.LittleEndian.Uint64(data[fixed-8:])
	data = data[fixed:]
	if n > uint64(len(data))*4 {
		return 0, fmt.Errorf("read map of %d objects: %w", n, errShort)
	}
	var used uint64
	for i := range min(n, h.objects()) {
		if data[i/4]>>(6-2*(i%4))&3 != 0 {
			used += h.within(i)
		}
	}
	return used, nil
}
