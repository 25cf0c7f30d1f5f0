// Package images tells the sizes of disk images on this machine, for disks of guests that do not run.
//
// Images may be on file systems that hang. Every look runs on a goroutine of its own, at most looksAtAll together; a caller waits
// lookTimeout and then gets OperationTimeout, while the goroutine ends when the kernel lets it. What is in an image was written by a
// guest: of its header only sizes are read, and nothing that it names is opened. All functions are safe concurrently.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/image"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// looksAtAll bounds the threads that file systems which hang can hold.
	looksAtAll = 64
	// lookTimeout is how long a caller waits for a file system.
	lookTimeout = 10 * time.Second
	// blockUnit is the unit of st_blocks in bytes.
	blockUnit = 512
)

// Looker looks at images.
type Looker struct{ looks *semaphore.Weighted }

// New returns a Looker.
func New() *Looker { return &Looker{semaphore.NewWeighted(looksAtAll)} }

// Sizes are those of an image, in bytes.
type Sizes struct {
	// Capacity is what a guest sees, Allocation what is used on disk, Physical the size of the file.
	Capacity, Allocation, Physical uint64
}

// Sizes looks at the file or block device at a path. None is NoStorageVol, a file system that does not answer OperationTimeout.
func (l *Looker) Sizes(ctx context.Context, path string) (Sizes, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := l.looks.Acquire(ctx, 1); err != nil {
		return Sizes{}, timedOut(path, err)
	}
	type answer struct {
		sizes Sizes
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer l.looks.Release(1)
		sizes, err := inspect(path)
		answers <- answer{sizes, err}
	}()
	select {
	case a := <-answers:
		return a.sizes, a.err
	case <-ctx.Done():
		return Sizes{}, timedOut(path, ctx.Err())
	}
}

func timedOut(path string, err error) error {
	return verr.New(verr.OperationTimeout, "image '%s' does not answer: %w", path, err).In(verr.FromStorage)
}

// inspect finds out what is at a path without opening it, so that neither a FIFO blocks nor a device notices, and then reads it.
func inspect(path string) (Sizes, error) {
	handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Sizes{}, wrap("find", path, err)
	}
	defer func() { _ = unix.Close(handle) }()
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return Sizes{}, wrap("read state of", path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return Sizes{}, noImage(path)
	}
	sizes := Sizes{Capacity: uint64(st.Size), Allocation: uint64(st.Blocks) * blockUnit, Physical: uint64(st.Size)}
	return sizes, sizes.read(handle, path, kind == unix.S_IFBLK)
}

// read opens what was found, and reads its size and header. Of a file that may not be read no more is known.
func (s *Sizes) read(handle int, path string, block bool) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", handle), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return wrap("open", path, err)
	}
	defer func() { _ = f.Close() }()
	if block {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return wrap("find the size of", path, err)
		}
		*s = Sizes{uint64(end), uint64(end), uint64(end)}
	}
	header, err := image.Parse(f)
	if err != nil {
		return wrap("read header of", path, err)
	}
	if header.Size > 0 {
		s.Capacity = header.Size
	}
	return nil
}

func noImage(path string) error {
	return verr.New(verr.NoStorageVol, "no storage vol with matching path '%s'", path).In(verr.FromStorage)
}

// wrap tells what could not be done with a path.
func wrap(verb, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) {
		return noImage(path)
	}
	return verr.New(verr.SystemError, "cannot %s '%s': %w", verb, path, err).In(verr.FromStorage)
}
