// Package cleanup removes the files of disks' leases that nobody has: disks come and go, and the file of a lease stays behind.
//
// A file is removed while this process has its lease, so nobody else has it, and the lease is not given up on the storage afterwards: a
// host that had the file open and takes the lease at that very moment finds it taken, and looks for the file again. A lease that
// somebody has is left alone. The host has to be in the lockspace of disks, which it is while lodged runs.
package cleanup

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
)

// Command is the word that makes the plugin's binary clean up.
const Command = "cleanup"

// Names in the folder of leases. Space is that of the lockspace of disks, and of its file; it is libvirt's, so that its hosts and ours
// share leases. FreshPrefix begins the names of files that are not finished.
const (
	Space       = "__LIBVIRT__DISKS__"
	FreshPrefix = ".new-"
)

// DefaultLeaseDir is libvirt's folder of leases for disks.
const DefaultLeaseDir = "/var/lib/libvirt/sanlock"

const (
	// leaseTime bounds what is done about one lease.
	leaseTime = time.Minute
	// freshTime is how old an unfinished file is that nobody finishes any more.
	freshTime = time.Hour
)

// Run is the command's main function: it returns the exit code.
func Run(args []string) int { return run(args, os.Stdout, os.Stderr) }

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	flags.SetOutput(errs)
	dir := flags.String("dir", DefaultLeaseDir, "folder of the leases, disk_lease_dir of the settings")
	runDir := flags.String("run-dir", client.DefaultDir, "folder of the sanlock daemon's socket")
	quiet := flags.Bool("quiet", false, "name no file that is removed")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	removed, failed := 0, 0
	say := func(format string, args ...any) {
		if !*quiet {
			fmt.Fprintf(out, format+"\n", args...)
		}
	}
	err := Clean(context.Background(), client.New(*runDir), *dir, func(path string, err error) {
		switch {
		case err == nil:
			removed++
			say("%s: removed", path)
		case errors.Is(err, ErrInUse):
			say("%s: in use", path)
		default:
			failed++
			fmt.Fprintf(errs, "%s: %v\n", path, err)
		}
	})
	if err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	say("%d removed", removed)
	if failed > 0 {
		return 1
	}
	return 0
}

// ErrInUse says that somebody has a lease.
var ErrInUse = errors.New("the lease is in use")

// Clean removes the files of leases that nobody has from a folder, and tells what became of each: nil, ErrInUse, or why it is still
// there.
func Clean(ctx context.Context, daemon *client.Client, dir string, tell func(path string, err error)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder of leases: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), FreshPrefix):
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > freshTime {
				tell(path, os.Remove(path))
			}
		case isLease(e):
			if err := clean(ctx, daemon, path); errors.Is(err, client.ErrNotRunning) {
				return err
			} else {
				tell(path, err)
			}
		}
	}
	return nil
}

// isLease reports that a file has the name of one, the MD5 of a path.
func isLease(e fs.DirEntry) bool {
	sum, err := hex.DecodeString(e.Name())
	return err == nil && len(sum) == 16 && e.Type().IsRegular() && e.Name() == strings.ToLower(e.Name())
}

func clean(ctx context.Context, daemon *client.Client, path string) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTime)
	defer cancel()
	session, err := daemon.Register(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	err = session.Acquire(ctx, Command, []client.Resource{{Lockspace: Space, Name: filepath.Base(path), Disks: []client.Disk{{Path: path}}}})
	for _, busy := range []client.Result{
		client.Held, client.Busy, client.Again, client.HostLives, client.HeldElsewhere, client.HeldByOther, client.HostSilent,
	} {
		if errors.Is(err, busy) {
			return ErrInUse
		}
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove lease: %w", err)
	}
	return nil
}
