package images

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// VolumeType is libvirt's virStorageVolType.
type VolumeType int8

// The types that a volume of a folder can have.
const (
	File  VolumeType = 0
	Block VolumeType = 1
)

// Volume is a file or block device as it was found.
type Volume struct {
	// Pool is its folder; nil if it was not looked for in one.
	Pool *Pool
	// Name is that in the folder.
	Name string
	// Path is absolute, and the volume's key.
	Path string
	// Type says what is at the path.
	Type VolumeType
	// Capacity is what a guest sees, Allocation what is used on disk, Physical the size of the file; in bytes.
	Capacity, Allocation, Physical uint64
	// Image is what the header says.
	Image Image
	// Mode, Owner and Group of the file.
	Mode, Owner, Group uint32
	// Accessed, Modified and Changed are its times.
	Accessed, Modified, Changed time.Time
}

// blockUnit is the unit of st_blocks in bytes.
const blockUnit = 512

// inspect looks at the file or block device at a path; others are errNoVolume. What is there is found out without opening it, so that
// neither a FIFO blocks nor a device notices.
func inspect(path string) (*Volume, error) {
	handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, wrapSystem("find", path, err)
	}
	defer func() { _ = unix.Close(handle) }()
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return nil, wrapSystem("read state of", path, err)
	}
	v := &Volume{
		Name: filepath.Base(path), Path: path, Allocation: uint64(st.Blocks) * blockUnit, Physical: uint64(st.Size),
		Mode: st.Mode & 0o7777, Owner: st.Uid, Group: st.Gid,
		Accessed: time.Unix(st.Atim.Unix()), Modified: time.Unix(st.Mtim.Unix()), Changed: time.Unix(st.Ctim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		v.Type = Block
	default:
		return nil, fmt.Errorf("look at %q: %w", path, errNoVolume)
	}
	return v, v.read(handle)
}

// read opens what was found, and reads its size and header. A file that may not be read has no known format.
func (v *Volume) read(handle int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", handle), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		v.Capacity = v.Physical
		v.Image.Format = "unknown"
		return nil
	}
	if err != nil {
		return wrapSystem("open", v.Path, err)
	}
	defer func() { _ = f.Close() }()
	if v.Type == Block {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return wrapSystem("find the size of", v.Path, err)
		}
		v.Physical, v.Allocation = uint64(end), uint64(end)
	}
	if v.Image, err = Parse(f); err != nil {
		return wrapSystem("read header of", v.Path, err)
	}
	v.Capacity = v.Physical
	if v.Image.Size > 0 {
		v.Capacity = v.Image.Size
	}
	if b := v.Image.Backing; b != "" && !filepath.IsAbs(b) {
		v.Image.Backing = filepath.Join(filepath.Dir(v.Path), b)
	}
	return nil
}
