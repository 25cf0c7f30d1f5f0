// Package lvm asks LVM for volume groups and has it change them, by lvm(8).
//
// Commands about one group take turns (package turn): those that look run beside each other, one that changes something runs alone, and
// one whose starter was killed is waited for. LVM itself writes a group's metadata at once or not at all, so a command that is killed
// has been or has not. What a command warns of is dropped. Names are checked by package define before they get here, and go along as
// GROUP/NAME, so that none is an option. Functions are safe concurrently, and end with their context.
//
// Fields and formats are those of lvs(8), vgs(8), pvs(8) and lvmreport(7).
package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/internal/turn"
)

// Program is the name of the program that has all commands of LVM.
const Program = "lvm"

// ErrNoGroup says that there is no volume group of a name.
var ErrNoGroup = errors.New("volume group is not there")

// ErrNoMapper says that the kernel lacks what is asked for.
var ErrNoMapper = errors.New("the kernel has no device-mapper for that")

// LVM is an installation of LVM.
type LVM struct {
	// Program is its program, by name or path.
	Program string
	// Folder is the driver's for what lives until a reboot.
	Folder string
}

// Available reports whether LVM is installed.
func (l LVM) Available() bool { return command.Available(l.Program) }

// Group is a volume group that may or may not be there.
type Group struct {
	Name string
	lvm  LVM
	lock turn.Lock
}

// Group is the group of a name.
func (l LVM) Group(name string) Group { return Group{name, l, turn.For(l.Folder, name)} }

// Volume names a volume to LVM.
func (g Group) Volume(name string) string { return g.Name + "/" + name }

// Change runs one of LVM's commands that change something, alone.
func (g Group) Change(ctx context.Context, name string, args ...string) error {
	_, err := g.lock.Change(ctx, g.lvm.invocation(name, args))
	return explain(name, err)
}

// Delete removes the group with all that is in it, and LVM's marks from its devices. One program does both, which goes on if this one is
// killed between.
func (g Group) Delete(ctx context.Context, devices []string) error {
	const script = `lvm=$1 group=$2; shift 2; "$lvm" vgremove --force "$group" && "$lvm" pvremove --yes "$@"`
	found, err := command.Find(g.lvm.Program)
	if err != nil {
		return err
	}
	c := g.lvm.invocation("", nil)
	c.Name, c.Args = "sh", append([]string{"-c", script, "sh", found, g.Name}, devices...)
	_, err = g.lock.Change(ctx, c)
	return explain("vgremove", err)
}

// look runs one of LVM's commands that print a report, and decodes it.
func (g Group) look(ctx context.Context, into any, name string, args ...string) error {
	text, err := g.lock.Look(ctx, g.lvm.report(name, args))
	if err != nil {
		return explain(name, err)
	}
	return decode(name, text, into)
}

func (l LVM) report(name string, args []string) command.Command {
	return l.invocation(name, append([]string{"--reportformat", "json", "--units", "b", "--nosuffix"}, args...))
}

func decode(name string, text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read report of %s: %w", name, err)
	}
	return nil
}

func (l LVM) invocation(name string, args []string) command.Command {
	return command.Command{Name: l.Program, Args: append([]string{name}, args...), Env: []string{"LVM_SUPPRESS_FD_WARNINGS=1"}}
}

// explain leaves warnings out of what a command has said, and finds out what it means.
func explain(name string, err error) error {
	var failed *command.Error
	if !errors.As(err, &failed) {
		return err
	}
	var words []string
	for line := range strings.Lines(failed.Words) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "WARNING:") {
			words = append(words, line)
		}
	}
	failed = &command.Error{Program: name, Status: failed.Status, Words: strings.Join(words, "; ")}
	switch said := failed.Words; {
	case strings.Contains(said, "Volume group") && strings.Contains(said, "not found"):
		return fmt.Errorf("%w: %w", ErrNoGroup, failed)
	case strings.Contains(said, "without using device-mapper"), strings.Contains(said, "device-mapper target support"),
		strings.Contains(said, "device-mapper is available"), strings.Contains(said, "Required device-mapper target"):
		return fmt.Errorf("%w: %w", ErrNoMapper, failed)
	}
	return failed
}
