// Command demo shows what Lodge is for: it boots a Linux guest with stock virsh on a private host, kills every daemon of the host with
// SIGKILL, one after another and then all at once, and shows that the guest went on counting, that its lock never came free, and how
// soon `virsh list` answered again. Its exit code says whether all of that held.
//
// It needs the built daemons (make build) and what `make deps` installs, leaves nothing behind, and takes about half a minute.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

func main() {
	rig.RunProbe()
	bin := flag.String("bin", "bin", "folder of the built daemons")
	keep := flag.Bool("keep", false, "keep the host's folder with its logs")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	err := run(ctx, *bin, *keep)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\n%s the demo failed: %v\n", cross, err)
		os.Exit(1)
	}
	fmt.Printf("\n%s everything held\n", tick)
}

// run shows the whole story in a private folder.
func run(ctx context.Context, bin string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "lodge-demo-")
	if err != nil {
		return fmt.Errorf("make private folder: %w", err)
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return fmt.Errorf("find the daemons: %w", err)
	}
	s := &story{host: &rig.Host{Dir: filepath.Join(dir, "host"), Bin: bin}, dir: dir}
	defer func() { err = errors.Join(err, s.end(keep || err != nil)) }()
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Start the core in a private folder", s.start},
		{"Define and boot a Linux guest with virsh", s.boot},
		{"Watch its lock from another process", s.watchLock},
		{"Try a second guest on the same disk", s.refuseSecond},
		{"SIGKILL the qemu plugin", s.kill(rig.Plugin)},
		{"SIGKILL the lock daemon", s.kill(rig.Lockd)},
		{"SIGKILL the core", s.kill(rig.Core)},
		{"SIGKILL all three at once", s.kill(rig.Plugin, rig.Lockd, rig.Core)},
		{"Shut the guest down and stop the host", s.shutdown},
	} {
		fmt.Printf("\n%s\n", step.title)
		if err := step.run(ctx); err != nil {
			return err
		}
	}
	return nil
}
