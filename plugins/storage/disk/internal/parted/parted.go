// Package parted reads partition tables, and has parted(8) change them.
//
// Commands about one disk take turns (package turn): those that look run beside each other, one that changes something runs alone, and
// one whose starter was killed is waited for. A change is one command, which writes a table that was checked as a whole. Places are
// bytes, ends are the first byte after. Functions are safe concurrently and end with their context.
//
// The format is that of parted's option --machine, described in its manual, section "Invoking Parted".
package parted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/internal/turn"
)

const program = "parted"

// ErrNoLabel says that a disk has no partition table that is known.
var ErrNoLabel = errors.New("no partition table is known on it")

// Available reports whether parted is installed.
func Available() bool { return command.Available(program) }

// Disk is a disk by its path.
type Disk struct {
	Path string
	lock turn.Lock
}

// On is a disk; folder is the driver's for what lives until a reboot.
func On(folder, path string) Disk { return Disk{path, turn.For(folder, path)} }

// Table is what is on a disk.
type Table struct {
	// Label is parted's name for the kind of table.
	Label string
	// Sector is the size of a block in bytes.
	Sector uint64
	// Parts are the partitions by their places, an extended one before those that are in it.
	Parts []Part
	// Free is the room between them.
	Free []Space
}

// Space is a piece of a disk.
type Space struct {
	Start, End uint64
	// Logical says that it is within an extended partition.
	Logical bool
}

// Size is its length.
func (s Space) Size() uint64 { return s.End - s.Start }

// Part is a partition.
type Part struct {
	Number int
	Space
	// Extended says that it has others in it.
	Extended bool
	// System is the file system that is in it, as parted names it, or empty.
	System string
	Flags  []string
	// Code is its kind in a table of kind "msdos", or 0.
	Code byte
}

// Has reports whether a flag is set.
func (p Part) Has(flag string) bool { return slices.Contains(p.Flags, flag) }

// Table reads the partition table.
func (d Disk) Table(ctx context.Context) (*Table, error) {
	out, err := d.lock.Look(ctx, invocation(d.Path, "unit", "B", "print", "free"))
	if err != nil {
		return nil, explain(err)
	}
	t, err := parse(string(out), d.Path)
	if err != nil {
		return nil, fmt.Errorf("read partition table of '%s': %w", d.Path, err)
	}
	if t.Label == msdos {
		if err := d.kinds(t); err != nil {
			return nil, fmt.Errorf("read kinds of partitions: %w", err)
		}
	}
	t.nest()
	return t, nil
}

// kinds puts in what parted does not print of a table of kind "msdos".
func (d Disk) kinds(t *Table) error {
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	codes, err := codes(f, t.Sector)
	if err != nil {
		return err
	}
	for n := range t.Parts {
		p := &t.Parts[n]
		p.Code = codes[p.Start]
		p.Extended = p.Number <= maxPrimary && extendedCode(p.Code)
	}
	return nil
}

// nest finds out what lies within an extended partition.
func (t *Table) nest() {
	for _, outer := range t.Parts {
		if !outer.Extended {
			continue
		}
		within := func(s Space) bool { return s.Start >= outer.Start && s.End <= outer.End }
		for n := range t.Parts {
			p := &t.Parts[n]
			p.Logical = p.Logical || p.Number != outer.Number && within(p.Space)
		}
		for n := range t.Free {
			t.Free[n].Logical = t.Free[n].Logical || within(t.Free[n])
		}
	}
}

// Change runs parted's commands on the disk, alone.
func (d Disk) Change(ctx context.Context, args ...string) error {
	_, err := d.lock.Change(ctx, invocation(d.Path, args...))
	return explain(err)
}

// Probe has the kernel read the table.
func (d Disk) Probe(ctx context.Context) error {
	_, err := d.lock.Change(ctx, command.Command{Name: "partprobe", Args: []string{d.Path}})
	return explain(err)
}

func invocation(path string, args ...string) command.Command {
	// Places are exact: they are worked out before.
	return command.Command{Name: program, Args: append([]string{"--machine", "--script", "--align", "none", path}, args...)}
}

// explain leaves out of what parted has said what a machine without udev makes it say, and finds out what it means.
func explain(err error) error {
	var failed *command.Error
	if !errors.As(err, &failed) {
		return err
	}
	var words []string
	for line := range strings.Lines(failed.Words) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "udevadm") {
			words = append(words, line)
		}
	}
	failed = &command.Error{Program: failed.Program, Status: failed.Status, Words: strings.Join(words, "; ")}
	if strings.Contains(failed.Words, "unrecognised disk label") {
		return fmt.Errorf("%w: %w", ErrNoLabel, failed)
	}
	return failed
}

// parse reads what parted prints.
func parse(text, path string) (*Table, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 2 || lines[0] != "BYT;" {
		return nil, errors.New("parted printed no table")
	}
	// PATH:SIZE:TRANSPORT:SECTOR:PHYSICAL:LABEL:MODEL:FLAGS; where the path is as it was given.
	head := strings.Split(strings.TrimPrefix(lines[1], path), ":")
	if len(head) < 6 {
		return nil, fmt.Errorf("parted printed %q", lines[1])
	}
	t := &Table{Label: head[5]}
	var err error
	if t.Sector, err = strconv.ParseUint(head[3], 10, 16); err != nil || t.Sector < 512 {
		return nil, fmt.Errorf("parted printed a sector size of %q", head[3])
	}
	for _, line := range lines[2:] {
		if err := t.add(line); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add reads NUMBER:START:END:SIZE:free; or NUMBER:START:END:SIZE:SYSTEM:NAME:FLAGS; where a name may have colons.
func (t *Table) add(line string) error {
	body, ok := strings.CutSuffix(strings.TrimSpace(line), ";")
	fields := strings.Split(body, ":")
	if !ok || len(fields) < 5 {
		return fmt.Errorf("parted printed %q", line)
	}
	number, errNumber := strconv.Atoi(fields[0])
	start, errStart := place(fields[1])
	last, errLast := place(fields[2])
	if err := errors.Join(errNumber, errStart, errLast); err != nil || last < start {
		return fmt.Errorf("parted printed %q", line)
	}
	s := Space{Start: start, End: last + 1}
	if len(fields) == 5 && fields[4] == "free" {
		t.Free = append(t.Free, s)
		return nil
	}
	p := Part{Number: number, Space: s, System: fields[4]}
	for _, flag := range strings.Split(fields[len(fields)-1], ",") {
		if flag = strings.TrimSpace(flag); flag != "" {
			p.Flags = append(p.Flags, flag)
		}
	}
	t.Parts = append(t.Parts, p)
	return nil
}

func place(text string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSuffix(text, "B"), 10, 62)
}
