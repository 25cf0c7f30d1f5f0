package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lodgevirt/lodge/host/internal/logging"
)

// classicName is the name of the daemon whose place this one can take.
const classicName = "virtlockd"

// maxTimeout is the longest timeout in seconds; virtlockd has the same.
const maxTimeout = 2147483

// options are what the command line says, and what follows from it.
type options struct {
	// name is that of the program.
	name string
	// classic says that it is virtlockd's.
	classic bool
	// private says that the daemon was given a socket of its own: then nothing of the machine's is used.
	private bool

	help, version bool
	background    bool
	verbose       bool
	timeout       time.Duration
	// config is the configuration file, needed if somebody named it, or empty.
	config       string
	configNeeded bool
	pidFile      string
	// restart is where a daemon leaves its state for the program that follows in the same process.
	restart string

	socket, adminSocket, journal string
	spaces                       []string
	logLevel, logFile            string
	maxClients                   uint32
	maxClientsSet                bool
	warnings                     []string
	text                         string
}

// flags defines the options. Those of libvirt's daemons come first.
func (o *options) flags(at paths) *pflag.FlagSet {
	set := pflag.NewFlagSet(o.name, pflag.ContinueOnError)
	set.SortFlags = false
	set.BoolVarP(&o.help, "help", "h", false, "show this and end")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "log from level 2 (info) on")
	set.BoolVarP(&o.background, "daemon", "d", false, "run in the background")
	set.StringP("timeout", "t", "", "end after so many `SECONDS` without clients and locks; 0 is never")
	set.StringVarP(&o.config, "config", "f", at.config, "read this configuration `FILE`")
	set.BoolVarP(&o.version, "version", "V", false, "print the version and end")
	set.StringVarP(&o.pidFile, "pid-file", "p", at.pidFile, "write the process number to this `FILE`, and lock it")
	set.StringVar(&o.socket, "socket", at.socket, "serve on this unix socket `PATH`")
	set.StringVar(&o.adminSocket, "admin-socket", "", "serve virt-admin on this unix socket `PATH` (default: NAME-admin-sock beside a socket NAME-sock)")
	set.StringVar(&o.journal, "journal", "", "remember leases in this `FILE` (default: lodge-lockd.journal beside the socket)")
	set.StringArrayVar(&o.spaces, "lockspace-dir", nil, "make the lockspace `DIR` known; may be repeated")
	set.StringVar(&o.logLevel, "log-level", "", "log from this `LEVEL` on: trace, debug, info, warn, error, off")
	set.StringVar(&o.logFile, "log-file", "", "append the log to this `FILE`")
	set.Uint32Var(&o.maxClients, "max-clients", 0, "serve at most `N` connections (default 1024)")
	set.SetNormalizeFunc(unabbreviate(set))
	return set
}

// unabbreviate lets options be shortened as long as it is clear which one is meant, as GNU's programs do.
func unabbreviate(set *pflag.FlagSet) func(*pflag.FlagSet, string) pflag.NormalizedName {
	var names []string
	set.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		found := ""
		for _, n := range names {
			switch {
			case n == name || name == "":
				return pflag.NormalizedName(name)
			case !strings.HasPrefix(n, name):
			case found != "":
				return pflag.NormalizedName(name) // which is no option then
			default:
				found = n
			}
		}
		if found == "" {
			found = name
		}
		return pflag.NormalizedName(found)
	}
}

// parse reads the command line and fills in what it leaves out.
func parse(name string, args []string) (options, error) {
	o := options{name: name, classic: name == classicName}
	at, err := defaultPaths()
	if err != nil {
		return o, err
	}
	set := o.flags(at)
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.text = set.FlagUsages()
	if err := o.check(set); err != nil {
		return o, err
	}
	o.complete(set, at)
	return o, nil
}

// check refuses what the options must not say.
func (o *options) check(set *pflag.FlagSet) error {
	if text, err := set.GetString("timeout"); err == nil && set.Changed("timeout") {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n > maxTimeout {
			return fmt.Errorf("timeout %q: use a number of seconds from 0 to %d", text, maxTimeout)
		}
		o.timeout = time.Duration(n) * time.Second
	}
	if set.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", set.Arg(0))
		if !o.classic {
			return err
		}
		// virtlockd lets it be; a unit that has worked with it shall work with us.
		o.warnings = append(o.warnings, err.Error()+": it is ignored")
	}
	if o.logLevel != "" {
		if _, err := logging.ParseLevel(o.logLevel); err != nil {
			return err
		}
	}
	return nil
}

// complete fills in what follows from other options.
func (o *options) complete(set *pflag.FlagSet, at paths) {
	o.private = set.Changed("socket")
	o.configNeeded = set.Changed("config")
	o.maxClientsSet = set.Changed("max-clients") && o.maxClients > 0
	o.restart = at.restart
	dir := filepath.Dir(o.socket)
	if o.journal == "" {
		o.journal = filepath.Join(dir, "lodge-lockd.journal")
	}
	if o.private {
		o.restart = filepath.Join(dir, filepath.Base(at.restart))
		if !o.configNeeded {
			o.config = ""
		}
		if !set.Changed("pid-file") {
			o.pidFile = o.journal + ".pid"
		}
	}
	if !set.Changed("admin-socket") {
		if base, ok := strings.CutSuffix(o.socket, "-sock"); ok {
			o.adminSocket = base + "-admin-sock"
		}
	}
}

// absolute are options to be put behind the others so that relative paths mean the same in another folder.
func (o options) absolute() []string {
	var out []string
	for _, path := range []struct{ flag, value string }{
		{"config", o.config},
		{"pid-file", o.pidFile},
		{"socket", o.socket},
		{"admin-socket", o.adminSocket},
		{"journal", o.journal},
		{"log-file", o.logFile},
	} {
		abs, err := filepath.Abs(path.value)
		if path.value == "" || filepath.IsAbs(path.value) || err != nil {
			continue
		}
		out = append(out, "--"+path.flag+"="+abs)
	}
	return out
}

// exitCode is what the daemon ends with under its name.
func (o options) exitCode(code int) int {
	if o.classic {
		return exitFailed
	}
	return code
}

func (o options) usage() string {
	return fmt.Sprintf("Usage: %s [OPTION]...\n\nHolds the locks of guests' disks.\n\n%s", o.name, o.text)
}

// paths are the files of a daemon that was told nothing.
type paths struct {
	socket, pidFile, restart, config string
	// log is the log of a daemon in the background where there is no journal of systemd's.
	log string
}

// defaultPaths returns virtlockd's paths: the system's for root, the session's for everybody else.
func defaultPaths() (paths, error) {
	if os.Geteuid() == 0 {
		return paths{
			socket: "/run/libvirt/virtlockd-sock", pidFile: "/run/virtlockd.pid", restart: "/run/virtlockd-restart-exec.json",
			config: "/etc/libvirt/virtlockd.conf", log: "/var/log/libvirt/virtlockd.log",
		}, nil
	}
	home := os.Getenv("HOME")
	folder := func(variable, rest string) string {
		if dir := os.Getenv(variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, "libvirt")
		}
		return filepath.Join(home, rest, "libvirt")
	}
	if home == "" {
		return paths{}, errors.New("find the folders of the session: HOME is not set")
	}
	run := folder("XDG_RUNTIME_DIR", ".cache")
	return paths{
		socket: filepath.Join(run, "virtlockd-sock"), pidFile: filepath.Join(run, "virtlockd.pid"),
		restart: filepath.Join(run, "virtlockd-restart-exec.json"),
		config:  filepath.Join(folder("XDG_CONFIG_HOME", ".config"), "virtlockd.conf"),
		log:     filepath.Join(folder("XDG_CACHE_HOME", ".cache"), "virtlockd.log"),
	}, nil
}
