// Command bench measures lodged and its lock daemon, and real libvirtd and virtlockd where they are installed, with one and the same client
// over their sockets, and prints both and the ratio as Markdown tables.
//
// Each daemon gets a private instance of its own under one scratch folder, one after the other, so that they never run at the same time.
// libvirtd runs in its own mount namespace under a subreaper, which orphaned guests need on a machine whose first process is slow to
// reap. An ESX host is a simulated one in a process of its own, and the client of both is virsh, since libvirt's driver for it is a part of the
// client. For all else the client speaks raw frames with blocking calls, one thread for a connection, so that its own share of a round
// trip is small. Whatever is started is ended, also after an error or a signal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/peer"
)

// options are the command line.
type options struct {
	bin     string
	out     string
	only    string
	section string
	quick   bool
}

func main() {
	peer.RunJail()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built binaries")
	flag.StringVar(&o.out, "out", "", "file to write the table to, besides standard output")
	flag.StringVar(&o.only, "only", "", "measure only lodged or only libvirtd, and their lock daemons")
	flag.StringVar(&o.section, "section", "", "measure only the hosts, the storage, the locks or esx")
	flag.BoolVar(&o.quick, "quick", false, "fewer and shorter measurements")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures every target of the chosen sections and writes the tables.
func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	scratch, err := os.MkdirTemp("", "lb")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return fmt.Errorf("find the binaries: %w", err)
	}
	plan := fullPlan
	if o.quick {
		plan = quickPlan
	}
	text := machine() + "\n"
	var errs []error
	for _, s := range []struct {
		name    string
		measure func() ([]*result, error)
	}{
		{"hosts", func() ([]*result, error) { return measureHosts(ctx, o.chosen(), bin, scratch, plan) }},
		{"storage", func() ([]*result, error) { return measureStorage(ctx, o.chosen(), bin, scratch, plan) }},
		{"locks", func() ([]*result, error) { return measureLocks(ctx, o.chosen(), bin, scratch, plan) }},
		{"esx", func() ([]*result, error) { return measureESX(ctx, o.only, bin, scratch, plan) }},
	} {
		if o.section != "" && o.section != s.name {
			continue
		}
		results, err := s.measure()
		errs = append(errs, err)
		text += "\n" + report(results)
	}
	fmt.Print(text)
	if o.out != "" {
		errs = append(errs, writeFile(o.out, text))
	}
	return errors.Join(errs...)
}

// chosen says whose daemons are to be measured.
func (o options) chosen() chosen {
	c := chosen{ours: o.only != "libvirtd", theirs: o.only != "lodged"}
	if !c.theirs {
		return c
	}
	if err := peer.Available(); err != nil {
		fmt.Fprintln(os.Stderr, "measuring ours alone:", err)
		c.theirs = false
	}
	return c
}

// chosen is whose daemons are measured.
type chosen struct{ ours, theirs bool }

// measureHosts measures lodged and libvirtd.
func measureHosts(ctx context.Context, who chosen, bin, scratch string, p plan) ([]*result, error) {
	var targets []target
	if who.ours {
		targets = append(targets, newLodge(bin, filepath.Join(scratch, "l")))
	}
	if who.theirs {
		targets = append(targets, newLibvirtd(filepath.Join(scratch, "p")))
	}
	var (
		results []*result
		errs    []error
	)
	for _, t := range targets {
		fmt.Fprintf(os.Stderr, "measuring %s\n", t.name())
		r, err := measure(ctx, t, p)
		results = append(results, r)
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", t.name(), err))
		}
	}
	return results, errors.Join(errs...)
}

// writeFile writes the table to a file, with its folder.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// progress tells a person what is being measured.
func progress(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "  "+format+"\n", args...)
}
