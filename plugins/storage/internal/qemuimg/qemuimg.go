// Package qemuimg makes, copies and resizes images by qemu-img(1).
//
// Arguments are never read by a shell, and paths are handed over so that they cannot be taken for options, URLs or descriptions. The
// passphrase of an encrypted image goes to the process through a file in memory, never through an argument. Each call ends with its
// context, which kills the process. Formats are always stated and never guessed. All functions are safe concurrently.
package qemuimg

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
)

const (
	program = "qemu-img"
	// secretID names the passphrase among the process' objects.
	secretID = "sec0"
	// secretFD is the descriptor that it has there.
	secretFD = 3
)

// Available reports whether images of formats other than raw can be made here.
func Available() bool { return command.Available(program) }

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
	c := command.Command{Name: program, Args: args}
	if passphrase != nil {
		f, err := command.Memory(passphrase)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		c.Files = []*os.File{f}
	}
	return c.Run(ctx)
}
