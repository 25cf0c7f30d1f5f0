// Command bench measures lodged, and real libvirtd where it is installed, with one and the same client over their sockets, and prints
// both and the ratio as a Markdown table.
//
// Each daemon gets a private instance of its own under one scratch folder, one after the other, so that they never run at the same time.
// libvirtd runs in its own mount namespace under a subreaper, which orphaned guests need on a machine whose first process is slow to
// reap. The client speaks raw frames with blocking calls, one thread for a connection, so that its own share of a round
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
	bin   string
	out   string
	only  string
	quick bool
}

func main() {
	peer.RunJail()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built binaries")
	flag.StringVar(&o.out, "out", "", "file to write the table to, besides standard output")
	flag.StringVar(&o.only, "only", "", "measure only lodged or only libvirtd")
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

// run measures every target and writes the table.
func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	scratch, err := os.MkdirTemp("", "lb")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	targets, err := chooseTargets(o, scratch)
	if err != nil {
		return err
	}
	plan := fullPlan
	if o.quick {
		plan = quickPlan
	}
	var (
		results []*result
		errs    []error
	)
	for _, t := range targets {
		fmt.Fprintf(os.Stderr, "measuring %s\n", t.name())
		r, err := measure(ctx, t, plan)
		results = append(results, r)
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", t.name(), err))
		}
	}
	table := report(results)
	fmt.Print(table)
	if o.out != "" {
		errs = append(errs, writeFile(o.out, table))
	}
	return errors.Join(errs...)
}

// chooseTargets returns what can be measured on this machine.
func chooseTargets(o options, scratch string) ([]target, error) {
	var targets []target
	if o.only != "libvirtd" {
		bin, err := filepath.Abs(o.bin)
		if err != nil {
			return nil, fmt.Errorf("find the binaries: %w", err)
		}
		targets = append(targets, newLodge(bin, filepath.Join(scratch, "l")))
	}
	if o.only != "lodged" {
		if err := peer.Available(); err != nil {
			fmt.Fprintln(os.Stderr, "measuring lodged alone:", err)
		} else {
			targets = append(targets, newLibvirtd(filepath.Join(scratch, "p")))
		}
	}
	return targets, nil
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
