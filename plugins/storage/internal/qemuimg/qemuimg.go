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
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
)

const (
	program = "qemu-img"
	// firstFD is the descriptor that the first passphrase has in the process.
	firstFD = 3
	// luks is the format of a raw image that is encrypted.
	luks = "luks"
)

// Available reports whether images of formats other than raw can be made here.
func Available() bool { return command.Available(program) }

// Image is an image that is there or is to be made.
type Image struct {
	// Path and Format; a raw image that is encrypted has the format "luks".
	Path, Format string
	// Size that a guest sees, in bytes; 0 takes the backing image's.
	Size uint64
	// Options are the format's own, by name.
	Options []string
	// Backing and BackingFormat are the image below, or empty.
	Backing, BackingFormat string
	// Passphrase is that of an image that is encrypted by luks; nil is none.
	Passphrase []byte
	// Cipher are further options of the encryption, by their names in format "luks".
	Cipher []string
}

// file is a path as a file name that is nothing else: QEMU takes what is before a colon for a protocol.
func file(path string) string { return "file:" + path }

// joined joins options; commas in values are doubled, as QEMU wants it.
func joined(all []string) string { return strings.Join(all, ",") }

// keyOption is the name of the option by which a format is told an object of QEMU's.
func keyOption(format string) string {
	if format == luks {
		return "key-secret"
	}
	return "encrypt.key-secret"
}

// described is an image that is there, as options.
func (i *Image) described(secret string) string {
	all := []string{"driver=" + i.Format, "file.driver=file", "file.filename=" + strings.ReplaceAll(i.Path, ",", ",,")}
	if i.Passphrase != nil {
		all = append(all, keyOption(i.Format)+"="+secret)
	}
	return joined(all)
}

// call is a run of qemu-img.
type call struct {
	passphrases [][]byte
	objects     []string
}

// secret hands a passphrase to the process and returns the name of the object that it is there.
func (c *call) secret(passphrase []byte) string {
	id := "sec" + strconv.Itoa(len(c.passphrases))
	c.objects = append(c.objects, "--object", fmt.Sprintf("secret,id=%s,file=/proc/self/fd/%d", id, firstFD+len(c.passphrases)))
	c.passphrases = append(c.passphrases, passphrase)
	return id
}

// keyFault is what qemu-img says when the system's clock of processor time did not move while it measured how long a key may take to be
// derived. It has to be asked again then, keyTries times in all.
const (
	keyFault = "Unable to get accurate CPU usage"
	keyTries = 10
)

// run runs a command of qemu-img to its end.
func (c *call) run(ctx context.Context, verb string, args ...string) error {
	for try := 1; ; try++ {
		err := c.once(ctx, verb, args...)
		var failed *command.Error
		if !errors.As(err, &failed) || !strings.Contains(failed.Words, keyFault) || try == keyTries {
			return err
		}
	}
}

func (c *call) once(ctx context.Context, verb string, args ...string) error {
	cmd := command.Command{Name: program, Args: append(append([]string{verb}, c.objects...), args...)}
	for _, p := range c.passphrases {
		f, err := command.Memory(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		cmd.Files = append(cmd.Files, f)
	}
	return cmd.Run(ctx)
}

// Create makes an image; one that is there is overwritten.
func Create(ctx context.Context, i Image) error {
	var c call
	args := []string{"-q", "-f", i.Format}
	opts := i.Options
	if i.Backing != "" {
		args = append(args, "-b", i.Backing, "-F", i.BackingFormat)
	}
	if i.Passphrase != nil {
		prefix := ""
		if i.Format != luks {
			prefix = "encrypt."
			opts = append(opts, "encrypt.format=luks")
		}
		opts = append(opts, keyOption(i.Format)+"="+c.secret(i.Passphrase))
		for _, o := range i.Cipher {
			opts = append(opts, prefix+o)
		}
	}
	if len(opts) > 0 {
		args = append(args, "-o", joined(opts))
	}
	args = append(args, file(i.Path))
	if i.Size > 0 || i.Backing == "" {
		args = append(args, strconv.FormatUint(i.Size, 10))
	}
	return c.run(ctx, "create", args...)
}

// Convert copies an image of a stated format into a new one, whose size is not stated for what is not encrypted.
func Convert(ctx context.Context, from, to Image) error {
	if from.Passphrase != nil || to.Passphrase != nil {
		return recrypt(ctx, from, to)
	}
	args := []string{"-q", "-f", from.Format, "-O", to.Format}
	if to.Backing != "" {
		args = append(args, "-B", to.Backing, "-F", to.BackingFormat)
	}
	if len(to.Options) > 0 {
		args = append(args, "-o", joined(to.Options))
	}
	return new(call).run(ctx, "convert", append(args, file(from.Path), file(to.Path))...)
}

// recrypt makes an image and copies another one into it, where either is encrypted.
func recrypt(ctx context.Context, from, to Image) error {
	if err := Create(ctx, to); err != nil {
		return err
	}
	var c call
	var in, out string
	if from.Passphrase != nil {
		in = c.secret(from.Passphrase)
	}
	if to.Passphrase != nil {
		out = c.secret(to.Passphrase)
	}
	return c.run(ctx, "convert", "-q", "-n", "--image-opts", "--target-image-opts", from.described(in), to.described(out))
}

// Resize gives an image another size. One that is encrypted needs its passphrase.
func Resize(ctx context.Context, i Image, size uint64, shrink, preallocate bool) error {
	var c call
	args := []string{"-q"}
	if shrink {
		args = append(args, "--shrink")
	}
	if preallocate {
		args = append(args, "--preallocation=falloc")
	}
	if i.Passphrase != nil {
		args = append(args, "--image-opts", i.described(c.secret(i.Passphrase)))
	} else {
		args = append(args, "-f", i.Format, file(i.Path))
	}
	return c.run(ctx, "resize", append(args, strconv.FormatUint(size, 10))...)
}
