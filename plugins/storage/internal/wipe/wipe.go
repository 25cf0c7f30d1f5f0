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
	"io"
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

// File overwrites the first size bytes; progress hears of every block.
func File(ctx context.Context, f *os.File, size uint64, algorithm uint32, progress func(done, total uint64)) error {
	if algorithm == Trim {
		return trim(f, size)
	}
	if err := Passes(ctx, f, size, algorithm, progress); err != nil {
		return fmt.Errorf("wipe %q: %w", f.Name(), err)
	}
	return nil
}

// Target is what can be overwritten: a file, or what a network storage has in its place.
type Target interface {
	io.WriterAt
	// Sync returns when all that was written survives power loss.
	Sync() error
}

// Passes overwrites the first size bytes by any algorithm but Trim; progress hears of every block.
func Passes(ctx context.Context, f Target, size uint64, algorithm uint32, progress func(done, total uint64)) error {
	passes, ok := algorithms[algorithm]
	if !ok {
		return fmt.Errorf("algorithm %d: %w", algorithm, ErrAlgorithm)
	}
	buf := make([]byte, min(size, block))
	total := size * uint64(len(passes))
	for n, p := range passes {
		if err := p.write(ctx, f, size, buf, func(done uint64) { progress(uint64(n)*size+done, total) }); err != nil {
			return fmt.Errorf("pass %d of %d: %w", n+1, len(passes), err)
		}
	}
	return nil
}

// write goes over the file once.
func (p pass) write(ctx context.Context, f Target, size uint64, buf []byte, progress func(uint64)) error {
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
		if _, err := f.WriteAt(part, int64(done)); err != nil {
			return err
		}
		done += uint64(len(part))
		progress(done)
	}
	return f.Sync()
}

// trim tells the storage that nothing of the content is needed.
func trim(f *os.File, size uint64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
	if err != nil {
		return fmt.Errorf("trim %q: %w", f.Name(), err)
	}
	return f.Sync()
}
