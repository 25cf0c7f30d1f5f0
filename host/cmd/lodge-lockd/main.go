// Command lodge-lockd is Lodge's lock daemon: it holds the locks of guests' disks and speaks the protocol of libvirt's virtlockd beside
// one of its own.
//
// It may be killed at any instant: guests keep their locks by the descriptors that they inherited, a journal says which leases
// there are, and the next daemon takes them back. SIGTERM, SIGINT and SIGQUIT end it in good order, which drops no lock
// that a guest holds either. A second daemon with the same pid file refuses to start.
//
// It runs in the foreground, logs to stderr or a file, tells systemd when it is ready, and takes its sockets from systemd if it was
// started with some. It ends with status 0 after a signal, 2 for bad arguments, 3 if another daemon runs, 1 otherwise.
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
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/version"
)

// Exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRunning = 3
)

// options are what the command line says.
type options struct {
	socket     string
	journal    string
	pidFile    string
	spaces     []string
	logLevel   string
	logFile    string
	maxClients int
	version    bool
}

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	if opts.version {
		fmt.Println("lodge-lockd", version.String())
		return 0
	}
	log, closeLog, err := logger(opts, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "lodge-lockd:", err)
		return exitFailed
	}
	defer closeLog()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer stop()
	err = serve(ctx, opts, log)
	if errors.Is(err, errRunning) {
		log.Error("lock daemon does not start", "error", err)
		return exitRunning
	}
	if err != nil {
		log.Error("lock daemon failed", "error", err)
		return exitFailed
	}
	return 0
}

// parse reads the command line and fills in what it leaves out. It has told the user about an error.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("lodge-lockd", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&o.socket, "socket", "/run/libvirt/virtlockd-sock", "serve on the unix socket `PATH`")
	set.StringVar(&o.journal, "journal", "", "remember leases in `FILE` (default: lodge-lockd.journal beside the socket)")
	set.StringVar(&o.pidFile, "pid-file", "", "write the process number to `FILE`, and lock it (default: the journal with .pid)")
	set.Func("lockspace-dir", "make the lockspace `DIR` known; may be repeated", func(dir string) error {
		o.spaces = append(o.spaces, dir)
		return nil
	})
	set.StringVar(&o.logLevel, "log-level", "info", "log from `LEVEL` on: trace, debug, info, warn, error, off")
	set.StringVar(&o.logFile, "log-file", "", "append the log to `FILE` instead of stderr")
	set.IntVar(&o.maxClients, "max-clients", 0, "serve at most `N` connections (default 1024)")
	set.BoolVar(&o.version, "version", false, "print the version and end")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	if set.NArg() > 0 || hclog.LevelFromString(o.logLevel) == hclog.NoLevel || o.maxClients < 0 {
		fmt.Fprintf(stderr, "lodge-lockd: bad arguments %q\n", strings.Join(args, " "))
		return o, errors.New("bad arguments")
	}
	if o.journal == "" {
		o.journal = filepath.Join(filepath.Dir(o.socket), "lodge-lockd.journal")
	}
	if o.pidFile == "" {
		o.pidFile = o.journal + ".pid"
	}
	return o, nil
}

func logger(o options, stderr io.Writer) (log hclog.Logger, done func(), err error) {
	out, done := stderr, func() {}
	if o.logFile != "" {
		f, err := os.OpenFile(o.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open log: %w", err)
		}
		out, done = f, func() { f.Close() }
	}
	return hclog.New(&hclog.LoggerOptions{Name: "lockd", Level: hclog.LevelFromString(o.logLevel), Output: out}), done, nil
}
