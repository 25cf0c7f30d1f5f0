// Command lodged is Lodge's core daemon: it keeps the definitions of guests, supervises the drivers that run them, and serves libvirt's
// protocol and an API of its own.
//
// It runs in the foreground until SIGTERM or SIGINT, and then stops in good order, which no guest notices. It logs to stderr, and
// tells systemd when it is ready. It may be killed at any instant. It ends with status 0 after a signal, 2 for bad arguments, 1
// otherwise.
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
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/config"
	"github.com/lodgevirt/lodge/host/internal/core"
	"github.com/lodgevirt/lodge/host/internal/layout"
	"github.com/lodgevirt/lodge/host/internal/version"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// options are what the command line says.
type options struct {
	dir, config, pluginDir, lockd, logLevel string
	version                                 bool
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("lodged", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "", "keep everything under this `folder` (default: the system's paths, or the user's)")
	f.StringVar(&o.config, "config", "", "configuration `file` (default: etc/lodge.toml under --dir, /etc/lodge/lodge.toml)")
	f.StringVar(&o.pluginDir, "plugin-dir", "", "`folder` with plugins (default: \"plugins\" beside this binary)")
	f.StringVar(&o.lockd, "lockd", "", "lock daemon's `binary`, \"none\" to start none (default: lodge-lockd beside this binary)")
	f.StringVar(&o.logLevel, "log-level", "", "trace, debug, info, warn or error")
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q; see lodged --help", f.Arg(0))
		fmt.Fprintln(stderr, "lodged:", err)
		return o, err
	}
	return o, nil
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case o.version:
		fmt.Fprintln(stdout, "lodged", version.String())
		return 0
	}
	if err := serve(o); err != nil {
		fmt.Fprintln(stderr, "lodged:", err)
		return exitFailed
	}
	return 0
}

// serve runs the host until a signal.
func serve(o options) error {
	cfg, err := settings(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	host, err := core.New(cfg)
	if err != nil {
		return err
	}
	err = host.Run(ctx)
	cfg.Log.Info("host has stopped")
	return err
}

// settings turns options and files into the host's configuration.
func settings(o options) (core.Config, error) {
	l, err := place(o.dir)
	if err != nil {
		return core.Config{}, err
	}
	file := o.config
	if file == "" {
		file = filepath.Join(l.Conf, "lodge.toml")
	}
	s, err := config.Load(file, o.config != "")
	if err != nil {
		return core.Config{}, err
	}
	if o.logLevel != "" {
		s.LogLevel = o.logLevel
	}
	if hclog.LevelFromString(s.LogLevel) == hclog.NoLevel {
		return core.Config{}, fmt.Errorf("log level %q: use trace, debug, info, warn or error", s.LogLevel)
	}
	self, err := os.Executable()
	if err != nil {
		return core.Config{}, fmt.Errorf("find own binary: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return core.Config{}, fmt.Errorf("find own binary: %w", err)
	}
	return core.Config{
		Layout: l, Settings: s, Privileged: os.Geteuid() == 0,
		PluginDirs: pluginDirs(o, s, filepath.Dir(self)), LockDaemon: lockDaemon(o, filepath.Dir(self)),
		Ready: func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }, // without systemd there is nobody to tell
		Log: hclog.New(&hclog.LoggerOptions{
			Name: "lodged", Level: hclog.LevelFromString(s.LogLevel), Output: os.Stderr,
			DisableTime: os.Getenv("JOURNAL_STREAM") != "", // the journal has its own
		}),
	}, nil
}

func place(dir string) (layout.Layout, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		return layout.Under(abs), err
	}
	if os.Geteuid() == 0 {
		return layout.System(), nil
	}
	return layout.Session(os.Getenv)
}

func pluginDirs(o options, s config.Config, bin string) []string {
	switch {
	case o.pluginDir != "":
		return []string{o.pluginDir}
	case len(s.Plugins.Dirs) > 0:
		return s.Plugins.Dirs
	}
	return []string{filepath.Join(bin, "plugins"), "/usr/local/lib/lodge/plugins", "/usr/lib/lodge/plugins"}
}

func lockDaemon(o options, bin string) string {
	switch o.lockd {
	case "none":
		return ""
	case "":
		return filepath.Join(bin, "lodge-lockd")
	}
	return o.lockd
}
