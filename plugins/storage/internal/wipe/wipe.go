// Package wipe overwrites files and devices by the patterns that libvirt knows by name, which are those of scrub(1).
//
// A pass writes every byte of the file's size and waits until the storage has it. What a storage keeps of old content elsewhere (logs,
// snapshots, flash) no pass reaches. Functions are safe concurrently; they stop soon after their context has ended, and leave then
// what was overwritten so far.
package wipe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Algorithms in virStorageVolWipeAlgorithm's numbers.
const (
	Zero = iota
	NNSA
	DoD
	BSI
	Gutmann
	Schneier
	Pfitzner7
	Pfitzner33
	Random
	Trim
)

// block is how much is written at once, in bytes; a multiple of every pattern's length.
const block = 3 << 20

// pass is one time over the file: a pattern that is repeated, or random bytes.
type pass []byte

var random pass

func times(n int, p pass) []pass {
	all := make([]pass, n)
	for i := range all {
		all[i] = p
	}
	return all
}

func each(patterns ...byte) []pass {
	var all []pass
	for _, b := range patterns {
		all = append(all, pass{b})
	}
	return all
}

// algorithms are the passes of each. Source: scrub(1), section "scrub methods".
var algorithms = map[uint32][]pass{
	Zero:       each(0),
	NNSA:       append(times(2, random), pass{0}),
	DoD:        {random, {0x00}, {0xff}},
	BSI:        each(0xff, 0xfe, 0xfd, 0xfb, 0xf7, 0xef, 0xdf, 0xbf, 0x7f),
	Gutmann:    gutmann(),
	Schneier:   append(each(0x00, 0xff), times(5, random)...),
	Pfitzner7:  times(7, random),
	Pfitzner33: times(33, random),
	Random:     times(1, random),
}

// gutmann is the sequence of Peter Gutmann's "Secure Deletion of Data from Magnetic and Solid-State Memory" (1996), table 1.
func gutmann() []pass {
	all := times(4, random)
	all = append(all, pass{0x55}, pass{0xaa}, pass{0x92, 0x49, 0x24}, pass{0x49, 0x24, 0x92}, pass{0x24, 0x92, 0x49})
	for b := 0x00; b <= 0xff; b += 0x11 {
		all = append(all, pass{byte(b)})
	}
	all = append(all, pass{0x92, 0x49, 0x24}, pass{0x49, 0x24, 0x92}, pass{0x24, 0x92, 0x49},
		pass{0x6d, 0xb6, 0xdb}, pass{0xb6, 0xdb, 0x6d}, pass{0xdb, 0x6d, 0xb6})
	return append(all, times(4, random)...)
}

// ErrAlgorithm says that there is no such algorithm.
var ErrAlgorithm = errors.New("unknown algorithm")

// Content is what is overwritten, where that is no file.
type Content interface {
	// Name is for errors.
	Name() string
	// Overwrite writes all of the bytes at a place; both are multiples of 4 KiB, but for the end of what ends elsewhere.
	Overwrite(ctx context.Context, data []byte, at uint64) error
	// Flush waits until the storage has what was written.
	Flush(ctx context.Context) error
}

// file is Content that is one.
type file struct{ *os.File }

// Overwrite implements Content.
func (f file) Overwrite(_ context.Context, data []byte, at uint64) error {
	_, err := f.WriteAt(data, int64(at))
	return err
}

// Flush implements Content.
func (f file) Flush(context.Context) error { return f.Sync() }

// File overwrites the first size bytes; progress hears of every block.
func File(ctx context.Context, f *os.File, size uint64, algorithm uint32, progress func(done, total uint64)) error {
	if algorithm == Trim {
		return trim(f, size)
	}
	return Over(ctx, file{f}, size, algorithm, progress)
}

// Over overwrites the first size bytes of what is no file; it cannot trim.
func Over(ctx context.Context, c Content, size uint64, algorithm uint32, progress func(done, total uint64)) error {
	passes, ok := algorithms[algorithm]
	if !ok {
		return fmt.Errorf("wipe %q by algorithm %d: %w", c.Name(), algorithm, ErrAlgorithm)
	}
	buf := make([]byte, min(size, block))
	total := size * uint64(len(passes))
	for n, p := range passes {
		if err := p.write(ctx, c, size, buf, func(done uint64) { progress(uint64(n)*size+done, total) }); err != nil {
			return fmt.Errorf("wipe %q: pass %d of %d: %w", c.Name(), n+1, len(passes), err)
		}
	}
	return nil
}

// write goes over the content once.
func (p pass) write(ctx context.Context, c Content, size uint64, buf []byte, progress func(uint64)) error {
	for i := range buf {
		if len(p) > 0 {
			buf[i] = p[i%len(p)]
		}
	}
	for done := uint64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(uint64(len(buf)), size-done)]
		if len(p) == 0 {
			_, _ = rand.Read(part) // never fails
		}
		if err := c.Overwrite(ctx, part, done); err != nil {
			return err
		}
		done += uint64(len(part))
		progress(done)
	}
	return c.Flush(ctx)
}

// trim tells the storage that nothing of the content is needed.
func trim(f *os.File, size uint64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	if err != nil {
		return fmt.Errorf("trim %q: %w", f.Name(), err)
	}
	return f.Sync()
}
