// Package dog runs dog(8), the command of sheepdog, and reads what it prints.
//
// Every run is bounded by the context and a time-out, and no answer is taken for more than it is: dog ends with status 0 also after it was
// asked to delete what is not there, to list what is not there, and to make an image whose name it has cut. A Cluster is a value and safe
// concurrently.
//
// Sources: dog(8), and runs of version 1.0; lines of other versions as their own sources print them.
package dog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
)

// Errors that dog tells by words.
var (
	// ErrUnformatted says that the cluster was never formatted.
	ErrUnformatted = errors.New("the cluster is not formatted: 'dog cluster format' on one of its nodes does that")
	// ErrAway says that no node answers at the address.
	ErrAway = errors.New("no node of the cluster answers")
	// ErrExists says that there is an image of a name.
	ErrExists = errors.New("there is such an image already")
	// ErrNone says that there is no image of a name.
	ErrNone = errors.New("no such image")
)

// words are what dog says, and what that means.
var words = []struct {
	say string
	err error
}{
	{"Waiting for cluster to be formatted", ErrUnformatted},
	{"failed to connect", ErrAway},
	{"Failed to get node list", ErrAway},
	{"VDI exists already", ErrExists},
	{"No VDI found", ErrNone},
}

// usage is the exit status of what dog does not understand or refuses by itself; then its usage is on its output, which is of no interest.
const usage = 64

// ErrRefused says that dog refused by itself what it was asked for, as a size that it cannot make.
var ErrRefused = errors.New("dog refuses that")

// Programs are the names of the command: it was called collie up to version 0.6.
var Programs = []string{"dog", "collie"}

// Cluster is a cluster as one of its nodes shows it.
type Cluster struct {
	// Program is the command's path, or empty to look for it.
	Program string
	// Host and Port are the node's.
	Host string
	Port uint16
	// Timeout bounds one run.
	Timeout time.Duration
}

// Available says whether the command is there.
func Available(program string) error {
	if program == "" {
		program = Programs[0]
		for _, name := range Programs {
			if command.Available(name) {
				return nil
			}
		}
	}
	if !command.Available(program) {
		return fmt.Errorf("%s %w", program, command.ErrMissing)
	}
	return nil
}

func (c Cluster) program() string {
	if c.Program != "" {
		return c.Program
	}
	for _, name := range Programs {
		if command.Available(name) {
			return name
		}
	}
	return Programs[0]
}

// run runs dog with what it shall read, or nothing. It takes addresses only, so names are looked up here.
func (c Cluster) run(ctx context.Context, in *os.File, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, c.Host)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrAway, err)
	}
	cmd := command.Command{Name: c.program(), Args: append(slices.Clone(args), "-a", addresses[0], "-p", strconv.Itoa(int(c.Port)))}
	if in != nil {
		cmd.Stdin = in
	}
	out, err := cmd.Output(ctx)
	return string(out), explain(err)
}

// explain says what an error of dog means, with its words, each line once.
func explain(err error) error {
	var e *command.Error
	if !errors.As(err, &e) {
		return err
	}
	var lines []string
	for line := range strings.Lines(e.Words) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, w := range words {
		if strings.Contains(e.Words, w.say) {
			return fmt.Errorf("%w: %s", w.err, strings.Join(lines, "; "))
		}
	}
	if e.Status == usage && len(lines) > 0 {
		return fmt.Errorf("%w: %s", ErrRefused, lines[0])
	}
	return &command.Error{Program: e.Program, Status: e.Status, Words: strings.Join(lines, "; ")}
}

// Room asks how much room there is. It fails for a cluster that cannot be used.
func (c Cluster) Room(ctx context.Context) (Room, error) {
	text, err := c.run(ctx, nil, "node", "info", "-r")
	if err != nil {
		return Room{}, err
	}
	return parseRoom(text)
}

// All lists images and snapshots. odd are lines of dog's that cannot be read.
func (c Cluster) All(ctx context.Context) (all []Image, odd []string, err error) {
	text, err := c.run(ctx, nil, "vdi", "list", "-r")
	if err != nil {
		return nil, nil, err
	}
	all, odd = parseImages(text)
	return all, odd, nil
}

// Find looks for an image, or fails with ErrNone.
func (c Cluster) Find(ctx context.Context, name string) (Image, error) {
	text, err := c.run(ctx, nil, "vdi", "list", name, "-r")
	if err != nil {
		return Image{}, err
	}
	all, _ := parseImages(text)
	for _, i := range all {
		if i.Name == name && i.Snapshot == "" {
			return i, nil
		}
	}
	return Image{}, ErrNone
}

// Snapshots lists the snapshots of an image.
func (c Cluster) Snapshots(ctx context.Context, name string) ([]Image, error) {
	text, err := c.run(ctx, nil, "vdi", "list", name, "-r")
	if err != nil {
		return nil, err
	}
	all, _ := parseImages(text)
	return slices.DeleteFunc(all, func(i Image) bool { return i.Name != name || i.Snapshot == "" }), nil
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// Create makes an empty image, or fails with ErrExists.
func (c Cluster) Create(ctx context.Context, name string, size uint64) error {
	_, err := c.run(ctx, nil, "vdi", "create", name, number(size))
	return err
}

// Delete deletes an image, or fails with ErrNone. As dog tells success in any case, it is looked for before and after.
func (c Cluster) Delete(ctx context.Context, name string) error {
	if _, err := c.Find(ctx, name); err != nil {
		return err
	}
	if _, err := c.run(ctx, nil, "vdi", "delete", name); err != nil {
		return err
	}
	_, err := c.Find(ctx, name)
	switch {
	case errors.Is(err, ErrNone):
		return nil
	case err == nil:
		return errors.New("dog says that it has deleted it, and it is still there")
	}
	return err
}

// DeleteSnapshot deletes a snapshot by its number or tag.
func (c Cluster) DeleteSnapshot(ctx context.Context, name, snapshot string) error {
	_, err := c.run(ctx, nil, "vdi", "delete", "-s", snapshot, name)
	return err
}

// Resize makes an image bigger.
func (c Cluster) Resize(ctx context.Context, name string, size uint64) error {
	_, err := c.run(ctx, nil, "vdi", "resize", name, number(size))
	return err
}

// Snapshot makes a snapshot with a tag.
func (c Cluster) Snapshot(ctx context.Context, name, tag string) error {
	_, err := c.run(ctx, nil, "vdi", "snapshot", "-s", tag, name)
	return err
}

// Clone makes an image from a snapshot, or fails with ErrExists.
func (c Cluster) Clone(ctx context.Context, name, tag, clone string) error {
	_, err := c.run(ctx, nil, "vdi", "clone", "-s", tag, name, clone)
	return err
}

// Read fills a buffer from a place of an image; at most command.MaxOutput bytes.
func (c Cluster) Read(ctx context.Context, name string, data []byte, at uint64) error {
	text, err := c.run(ctx, nil, "vdi", "read", name, number(at), number(uint64(len(data))))
	if err == nil && len(text) != len(data) {
		err = fmt.Errorf("dog has read %d bytes of %d", len(text), len(data))
	}
	copy(data, text)
	return err
}

// Write writes bytes to a place of an image. dog fills up with zeros what it cannot read to the end, so it gets all of them by a file: from
// a pipe it would have less when this process is killed.
func (c Cluster) Write(ctx context.Context, name string, data []byte, at uint64) error {
	f, err := command.Memory(data)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = c.run(ctx, f, "vdi", "write", name, number(at), number(uint64(len(data))))
	return err
}
