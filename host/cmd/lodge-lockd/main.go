// Command lodge-lockd is Lodge's lock daemon: it holds the locks of guests' disks and speaks the protocol of libvirt's virtlockd beside
// one of its own. Under the name virtlockd it takes that daemon's place: it has its options, its configuration file, its sockets, its
// administration by virt-admin and its exit codes.
//
// It may be killed at any instant: guests keep their locks by the descriptors that they inherited, a journal says which leases
// there are, and the next daemon takes them back. SIGTERM, SIGINT and SIGQUIT end it in good order, which drops no lock
// that a guest holds either. SIGHUP makes it read its configuration again. SIGUSR1 makes it execute the program that is now installed under
// its name, in the same process, with all locks and connections: another version of itself, or virtlockd. A second daemon with the
// same pid file refuses to start.
//
// It tells systemd when it is ready, and takes its sockets from systemd if it was started with some. It ends with status 0 after a
// signal, 2 for bad arguments, 3 if another daemon runs, 1 otherwise; as virtlockd with 1 for all of these.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/host/internal/daemonize"
	"github.com/lodgevirt/lodge/host/internal/logging"
	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/version"
)

// Exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRunning = 3
)

// startPatience is how long the foreground waits for the daemon in the background.
const startPatience = time.Minute

func main() { os.Exit(run(os.Args[0], os.Args[1:], os.Stdout, os.Stderr)) }

// run runs the daemon under a name with arguments, and returns its exit code.
func run(argv0 string, args []string, stdout, stderr io.Writer) int {
	name := filepath.Base(argv0)
	o, err := parse(name, args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\nTry %s --help.\n", name, err, name)
		return o.exitCode(exitUsage)
	case o.help:
		fmt.Fprint(stdout, o.usage())
		return 0
	case o.version:
		fmt.Fprintf(stdout, "%s (lodge) %s\n", name, version.String())
		return 0
	}
	background, inside := daemonize.Inside()
	if o.background && !inside && !o.takesOver() {
		return o.start(stderr)
	}
	err = o.run(background, stderr)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, pidfile.ErrLocked):
		return o.exitCode(exitRunning)
	}
	return o.exitCode(exitFailed)
}

// start puts the daemon into the background and returns what came of it.
func (o options) start(stderr io.Writer) int {
	code, err := daemonize.Start(startPatience, o.absolute()...)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", o.name, err)
		return o.exitCode(exitFailed)
	}
	return code
}

// run runs the daemon until a signal, or until nobody has used it for long enough. It has told its error.
func (o options) run(background *daemonize.Background, stderr io.Writer) error {
	signals, ctx, stop := catch()
	defer stop()
	c, err := newControl(o)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", o.name, err)
		return err
	}
	c.background, c.signals = background, signals
	err = serve(ctx, o, c)
	if err != nil {
		c.logger.Error("lock daemon failed", "error", err)
		// Whoever waits at a terminal does not read a log that goes elsewhere.
		if !c.log.Outputs().Has(logging.Stderr) {
			fmt.Fprintf(stderr, "%s: %v\n", o.name, err)
		}
	}
	return errors.Join(err, c.log.Close())
}
