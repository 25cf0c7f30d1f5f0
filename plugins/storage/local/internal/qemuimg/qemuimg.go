// Package qemuimg makes, copies and resizes images by qemu-img(1).
//
// Arguments are never read by a shell, and paths are handed over so that they cannot be taken for options, URLs or descriptions. The
// passphrase of an encrypted image goes to the process through a file in memory, never through an argument. Each call ends with its
// context, which kills the process. Formats are always stated and never guessed. All functions are safe concurrently.
package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	program = "qemu-img"
	// maxWords bounds what of a failed process' own words goes into an error, in bytes.
	maxWords = 1024
	// killWait is how long a killed process' pipes are waited for.
	killWait = 2 * time.Second
	// secretID names the passphrase among the process' objects.
	secretID = "sec0"
	// secretFD is the descriptor that it has there.
	secretFD = 3
)

// ErrMissing says that there is no qemu-img.
var ErrMissing = errors.New("qemu-img is not installed")

// Available reports whether images of formats other than raw can be made here.
func Available() bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// Image is an image to be made.
type Image struct {
	Path, Format string
	// Size that a guest sees, in bytes; 0 takes the backing image's.
	Size uint64
	// Options are the format's own, by name.
	Options []string
	// Backing and BackingFormat are the image below, or empty.
	Backing, BackingFormat string
	// Passphrase encrypts it by luks; nil does not.
	Passphrase []byte
}

// file is a path as a file name that is nothing else: QEMU takes what is before a colon for a protocol.
func file(path string) string { return "file:" + path }

// options joins the format's options; commas in values are doubled, as QEMU wants it.
func options(all []string) []string {
	if len(all) == 0 {
		return nil
	}
	return []string{"-o", strings.Join(all, ",")}
}

// Create makes an image; one that is there is overwritten.
func Create(ctx context.Context, i Image) error {
	args := []string{"create", "-q", "-f", i.Format}
	opts := i.Options
	if i.Backing != "" {
		args = append(args, "-b", i.Backing, "-F", i.BackingFormat)
	}
	if i.Passphrase != nil {
		args = append([]string{args[0], "--object", object()}, args[1:]...)
		if i.Format == "luks" {
			opts = append(opts, "key-secret="+secretID)
		} else {
			opts = append(opts, "encrypt.format=luks", "encrypt.key-secret="+secretID)
		}
	}
	args = append(args, options(opts)...)
	args = append(args, file(i.Path))
	if i.Size > 0 || i.Backing == "" {
		args = append(args, strconv.FormatUint(i.Size, 10))
	}
	return run(ctx, i.Passphrase, args...)
}

func object() string {
	return fmt.Sprintf("secret,id=%s,file=/proc/self/fd/%d", secretID, secretFD)
}

// Convert copies an image of a stated format into a new one.
func Convert(ctx context.Context, from, fromFormat string, to Image) error {
	args := []string{"convert", "-q", "-f", fromFormat, "-O", to.Format}
	opts := to.Options
	if to.Backing != "" {
		args = append(args, "-B", to.Backing, "-F", to.BackingFormat)
	}
	args = append(args, options(opts)...)
	return run(ctx, nil, append(args, file(from), file(to.Path))...)
}

// Resize gives an image another size. One that is encrypted needs its passphrase.
func Resize(ctx context.Context, path, format string, size uint64, shrink bool, preallocate bool) error {
	args := []string{"resize", "-q", "-f", format}
	if shrink {
		args = append(args, "--shrink")
	}
	if preallocate {
		args = append(args, "--preallocation=falloc")
	}
	return run(ctx, nil, append(args, file(path), strconv.FormatUint(size, 10))...)
}

// run runs qemu-img to its end.
func run(ctx context.Context, passphrase []byte, args ...string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return ErrMissing
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = killWait
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	words := &limited{}
	cmd.Stdout, cmd.Stderr = io.Discard, words
	if passphrase != nil {
		f, err := memory(passphrase)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		cmd.ExtraFiles = []*os.File{f}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s %s: %w", program, args[0], ctx.Err())
		}
		return fmt.Errorf("%s %s: %w: %s", program, args[0], err, strings.TrimSpace(words.text.String()))
	}
	return nil
}

// memory is a file that is nowhere on a disk.
func memory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("passphrase", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "passphrase")
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("make file in memory: %w", err), f.Close())
	}
	return f, nil
}

// limited keeps the first words.
type limited struct{ text strings.Builder }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.text.Write(p[:min(len(p), max(0, maxWords-l.text.Len()))])
	return len(p), nil
}
