// Package turn runs programs that look at a device's metadata, or change it, one after the other: those that only look run beside
// each other, one that changes something runs alone.
//
// The right to run is flock(1)'s and belongs to the program that runs, not to the process that started it. So a driver that was killed
// while its program goes on leaves no gap: the next process that looks waits for that program to end, and then sees what it has done.
// Folders of locks belong to one driver and are emptied by a reboot. Functions are safe concurrently.
package turn

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
)

// changeTime is how long a change may take, with waiting for others.
const changeTime = 2 * time.Minute

// Lock is the right to look at or to change one thing.
type Lock struct{ path string }

// For is the lock of a thing, such as a device's path, in a driver's folder of what lives until a reboot.
func For(folder, thing string) Lock {
	return Lock{filepath.Join(folder, url.PathEscape(thing)+".lock")}
}

// Look runs a program beside others that look, to its end, and returns what it prints, even if it fails.
func (l Lock) Look(ctx context.Context, c command.Command) ([]byte, error) {
	return l.run(ctx, "--shared", c)
}

// Change runs a program alone, to its end, and returns what it prints, even if it fails. One that has begun is not broken off when the
// context ends: half a change of metadata is worse than a late answer. It is killed after changeTime.
func (l Lock) Change(ctx context.Context, c command.Command) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTime)
	defer cancel()
	c.Outlives = true
	return l.run(ctx, "--exclusive", c)
}

func (l Lock) run(ctx context.Context, how string, c command.Command) ([]byte, error) {
	name := c.Name
	found, err := command.Find(name)
	if err != nil {
		return nil, err
	}
	// The program does not have the lock's descriptor itself: LVM closes what it does not know.
	c.Args = append([]string{how, "--close", l.path, found}, c.Args...)
	c.Name = "flock"
	out, err := c.Output(ctx)
	var failed *command.Error
	if errors.As(err, &failed) {
		failed.Program = name
	}
	return out, err
}
