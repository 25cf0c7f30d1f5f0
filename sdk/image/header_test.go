package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

const gib = 1 << 30

// header returns a qcow2 header of version 3 with a size, and a backing file if one is named.
func header(size uint64, backing, format string) []byte {
	b := make([]byte, 512)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], 16)
	binary.BigEndian.PutUint64(b[24:], size)
	binary.BigEndian.PutUint32(b[100:], 104)
	if backing == "" {
		return b
	}
	binary.BigEndian.PutUint32(b[104:], extensionFormat)
	binary.BigEndian.PutUint32(b[108:], uint32(len(format)))
	copy(b[112:], format)
	binary.BigEndian.PutUint64(b[8:], 256)
	binary.BigEndian.PutUint32(b[16:], uint32(len(backing)))
	copy(b[256:], backing)
	return b
}

// change returns a copy with other bytes at an offset.
func change(b []byte, at int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], with)
	return b
}

func TestParse(t *testing.T) {
	plain := header(gib, "", "")
	vmdk := make([]byte, 512)
	copy(vmdk, "KDMV")
	binary.LittleEndian.PutUint64(vmdk[12:], 2048)
	for name, tt := range map[string]struct {
		image []byte
		want  Image
	}{
		"nothing":                           {nil, Image{Format: "raw"}},
		"zeros":                             {make([]byte, 4096), Image{Format: "raw"}},
		"a magic number alone":              {[]byte("QFI\xfb"), Image{Format: "raw"}},
		"qcow2 of version 3":                {plain, Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536}},
		"qcow2 of version 2":                {change(plain, 7, 2), Image{Format: "qcow2", Size: gib, Compat: "0.10", ClusterSize: 65536}},
		"qcow of version 1":                 {change(plain, 7, 1), Image{Format: "qcow", Size: gib}},
		"qcow2 of a version to come":        {change(plain, 7, 4), Image{Format: "raw"}},
		"qcow2 with absurd clusters":        {change(plain, 23, 63), Image{Format: "raw"}},
		"qcow2 of an absurd size":           {change(plain, 24, 0xff), Image{Format: "raw"}},
		"qcow2 with features":               {change(change(plain, 79, 1<<4), 87, 1), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536, LazyRefcounts: true, ExtendedL2: true}},
		"a VMDK counts sectors":             {vmdk, Image{Format: "vmdk", Size: 1 << 20}},
		"a backing image with its format":   {header(gib, "/x/base", "raw"), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536, Backing: "/x/base", BackingFormat: "raw"}},
		"a backing format that nobody has":  {header(gib, "/x/base", "evil"), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536, Backing: "/x/base"}},
		"a backing image that is a URL":     {header(gib, "nbd:host:1", "raw"), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536}},
		"a backing name with a line break":  {header(gib, "/x\n/y", "raw"), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536}},
		"a backing name that is not there":  {change(header(gib, "/x", "raw"), 8, 0, 0, 0, 0, 0, 0, 0x40, 0), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536}},
		"a backing name that is too long":   {change(header(gib, "/x", "raw"), 16, 0xff), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536}},
		"a backing extension without bound": {change(header(gib, "/x", "raw"), 108, 0xff), Image{Format: "qcow2", Size: gib, Compat: "1.1", ClusterSize: 65536, Backing: "/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Parse(bytes.NewReader(tt.image)); err != nil || got != tt.want {
				t.Fatalf("parsed %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

var errBroken = errors.New("the disk is on fire")

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

func TestParseTellsOfReadErrors(t *testing.T) {
	if _, err := Parse(broken{}); !errors.Is(err, errBroken) {
		t.Fatalf("parse: %v", err)
	}
}

func TestBackingIsAsItStandsThereOrAnError(t *testing.T) {
	good := header(gib, "nbd:host:1", "evil")
	for name, tt := range map[string]struct {
		image []byte
		want  Below
		err   error
	}{
		"what the header says":        {good, Below{"nbd:host:1", "evil"}, nil},
		"no image below":              {header(gib, "", ""), Below{}, nil},
		"a raw image":                 {make([]byte, 4096), Below{}, ErrFormat},
		"the first version":           {change(good, 7, 1), Below{}, ErrFormat},
		"absurd clusters":             {change(good, 23, 63), Below{}, ErrFormat},
		"a name that is too long":     {change(good, 16, 0xff), Below{}, ErrFormat},
		"a name outside the header":   {change(good, 11, 0xff), Below{}, ErrFormat},
		"a name that is not there":    {good[:260], Below{}, ErrFormat},
		"a format that is too long":   {change(good, 108, 0xff), Below{Name: "nbd:host:1"}, ErrFormat},
		"a header that is cut off":    {good[:100], Below{}, ErrFormat},
		"an extension before another": {change(good, 104, 1, 2, 3, 4, 0, 0, 0, 0), Below{Name: "nbd:host:1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Backing(bytes.NewReader(tt.image)); !errors.Is(err, tt.err) || got != tt.want {
				t.Fatalf("read %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := Backing(broken{}); !errors.Is(err, errBroken) {
		t.Errorf("broken disk: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(header(gib, "", ""))
	f.Add(header(gib, "../base", "qcow2"))
	f.Add([]byte("KDMV"))
	f.Fuzz(func(t *testing.T, image []byte) {
		img, err := Parse(bytes.NewReader(image))
		if err != nil {
			t.Fatalf("an image in memory cannot be read: %v", err)
		}
		if img.Format == "" || img.Size > 1<<63-1 || len(img.Backing) > maxBackingName || img.Backing != "" && !printable(img.Backing) {
			t.Fatalf("parsed %+v", img)
		}
	})
}
