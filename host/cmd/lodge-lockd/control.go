package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/adminserver"
	"github.com/lodgevirt/lodge/host/internal/daemonize"
	"github.com/lodgevirt/lodge/host/internal/idle"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/logging"
	"github.com/lodgevirt/lodge/host/internal/reexec"
	"github.com/lodgevirt/lodge/host/internal/virtconf"
)

const (
	// sourceName is the log's name for all that the daemon says: filters for virtlockd's name of its sources match it.
	sourceName = "locking.lockd"
	// libVersion is the version of libvirt that the daemon stands for.
	libVersion = 9_000_000
	// locksPerClient is how many locks a client is expected to have: virtlockd's unit expects ten disks a guest.
	locksPerClient = 10
	// perClient is how many descriptors a client needs besides: its connection, and the process that has the locks.
	perClient = 2
	// ownDescriptors is how many descriptors the daemon needs for itself.
	ownDescriptors = 64
)

// control is what can be seen and changed of the daemon while it runs: its configuration, its log, its limits, and when it ends.
type control struct {
	opts       options
	log        *logging.Log
	logger     hclog.Logger
	conf       virtconf.Lockd
	background *daemonize.Background

	locks lockService
	admin *adminserver.Server
	table *leases.Table
	watch *idle.Watch
	// signals and program are for the replacement of the program.
	signals *signals
	program *reexec.Program
	// serving is called when clients are served, until the context ends.
	serving func(context.Context)
}

// newControl reads the configuration and opens the log. A program that takes over from a predecessor in the same process is never
// stopped by a mistake in the configuration, because that would drop every lock.
func newControl(o options) (*control, error) {
	conf, confErr := o.configuration()
	takesOver := o.takesOver()
	if confErr != nil && !takesOver {
		return nil, fmt.Errorf("configuration: %w", confErr)
	}
	c := &control{opts: o, conf: conf}
	c.watch = idle.New(c.use)
	c.watch.SetTimeout(o.timeout)
	level := c.level(conf)
	fallback, err := o.outputs(level)
	if err != nil {
		return nil, err
	}
	if c.log, err = logging.New(logging.Config{Name: sourceName, Level: level, Default: fallback}); err != nil {
		return nil, err
	}
	c.logger = c.log.Logger()
	if err := c.configureLog(conf); err != nil {
		if !takesOver {
			return nil, errors.Join(fmt.Errorf("configuration: %w", err), c.log.Close())
		}
		confErr = errors.Join(confErr, err)
	}
	if confErr != nil {
		c.logger.Error("configuration is not used, because other processes' locks depend on this daemon", "error", confErr)
	}
	for _, w := range append(o.warnings, conf.Warnings...) {
		c.logger.Warn(w)
	}
	return c, nil
}

// configuration reads the file, if there is one.
func (o options) configuration() (virtconf.Lockd, error) {
	if o.config == "" && !o.configNeeded {
		return virtconf.DefaultLockd(), nil
	}
	conf, err := virtconf.LoadLockd(o.config, o.configNeeded)
	if err != nil {
		return virtconf.DefaultLockd(), err
	}
	return conf, nil
}

// level returns the general level of the log. The command line goes before the environment, and that before the file.
func (c *control) level(conf virtconf.Lockd) logging.Level {
	level := logging.Info
	if c.opts.classic {
		level = logging.Warning
	}
	if conf.LogLevel != 0 {
		level = logging.Level(conf.LogLevel)
	}
	if n, err := strconv.Atoi(c.environment("LIBVIRT_DEBUG")); err == nil && logging.Level(n) >= logging.Debug && logging.Level(n) <= logging.Error {
		level = logging.Level(n)
	}
	if c.opts.verbose {
		level = min(level, logging.Info)
	}
	if named, err := logging.ParseLevel(c.opts.logLevel); err == nil {
		level = named
	}
	return level
}

// environment is one of libvirt's variables. A daemon with files of its own has a log of its own.
func (c *control) environment(name string) string {
	if c.opts.private {
		return ""
	}
	return os.Getenv(name)
}

// outputs are where the log goes unless something else is configured.
func (o options) outputs(level logging.Level) (logging.Outputs, error) {
	switch {
	case o.logFile != "":
		return logging.Outputs{{Level: logging.Debug, Destination: logging.File, Target: o.logFile}}, nil
	case o.private && !o.background:
		return logging.Outputs{{Level: logging.Debug, Destination: logging.Stderr}}, nil
	}
	at, err := defaultPaths()
	if err != nil {
		return nil, err
	}
	if o.private {
		at.log = o.journal + ".log"
	}
	return logging.Choice{Level: level, Background: o.background, File: at.log, FolderMode: folderMode()}.Outputs()
}

// configureLog puts into force what the environment and a configuration say about the log. After an error nothing has changed.
func (c *control) configureLog(conf virtconf.Lockd) error {
	place := func(variable, setting, text string) (string, func(error) error) {
		if value := c.environment(variable); value != "" {
			return value, func(err error) error { return fmt.Errorf("%s: %w", variable, err) }
		}
		return text, func(err error) error { return conf.At(setting, err) }
	}
	filters, atFilters := place("LIBVIRT_LOG_FILTERS", "log_filters", conf.LogFilters)
	outputs, atOutputs := place("LIBVIRT_LOG_OUTPUTS", "log_outputs", conf.LogOutputs)
	if _, err := logging.ParseFilters(filters); err != nil {
		return atFilters(err)
	}
	if err := c.log.SetOutputs(outputs); err != nil {
		return atOutputs(err)
	}
	if err := c.log.SetFilters(filters); err != nil {
		return atFilters(err)
	}
	c.log.SetLevel(c.level(conf))
	return nil
}

// limits puts into force how many clients there may be.
func (c *control) limits() {
	locks, admin := c.conf.MaxClients, c.conf.AdminMaxClients
	if c.opts.maxClientsSet {
		locks = c.opts.maxClients
	}
	c.locks.SetLimits(locks, locks)
	c.admin.SetLimits(admin, admin)
	checkDescriptors(c.logger, uint64(locks), uint64(admin))
}

// checkDescriptors warns if there may be too few descriptors for all locks. The runtime has raised the limit as far as it goes.
func checkDescriptors(log hclog.Logger, locks, admin uint64) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("cannot tell how many files may be open", "error", err)
		return
	}
	if need := ownDescriptors + admin + locks*(perClient+locksPerClient); limit.Cur < need {
		log.Warn("few files may be open: raise LimitNOFILE, or ulimit -n, for as many clients with as many locks",
			"limit", limit.Cur, "clients", locks, "locks_per_client", locksPerClient, "needed", need)
	}
}

// takesOver reports whether a predecessor in this process has left its state or its locks.
func (o options) takesOver() bool { return reexec.Expected(o.restart) }

// attach makes the lock server visible to administrators, and serves them.
func (c *control) attach(server *lockserver.Server, table *leases.Table, admin *adminserver.Server) {
	c.locks.Server, c.admin, c.table = server, admin, table
	c.limits()
	admin.Use(adminserver.NewProgram(adminserver.Config{
		Services: []adminserver.Service{admin, &c.locks}, Log: c.log, Timeout: c.watch, LibVersion: libVersion, Logger: c.logger.Named("admin"),
	}))
}

// use says how the daemon is used: as long as there are clients or locks it does not end by itself.
func (c *control) use() idle.Use {
	clients := c.locks.Clients()
	admins := c.admin.Clients()
	u := idle.Use{Busy: len(clients)+len(admins) > 0}
	if !u.Busy {
		counts := c.table.Counts()
		u.Busy = counts.Held+counts.Unproven+counts.Lost > 0
	}
	u.Mark = c.locks.Accepted() + c.admin.Accepted()
	return u
}

// run does what the daemon does besides serving, until the context ends. It calls end when nobody has used the daemon for the timeout.
func (c *control) run(ctx context.Context, end func()) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		if c.watch.Run(ctx) {
			c.logger.Info("nobody has used the daemon for the timeout: it ends")
			end()
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.signals.reload:
			c.reload()
		case <-c.signals.replace:
			c.replace(ctx)
		}
	}
}

// replace executes the program that is installed now, and returns if that does not work.
func (c *control) replace(ctx context.Context) {
	c.tell("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic(), 10))
	c.program.Ready = func() error { return c.signals.disarm(ctx) }
	err := c.program.Replace(ctx)
	c.signals.arm()
	if ctx.Err() == nil {
		c.logger.Error("program is not replaced: the same one goes on", "error", err)
		c.tell(daemon.SdNotifyReady)
	}
}

// reload reads the configuration again. One with a mistake changes nothing.
func (c *control) reload() {
	c.tell("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic(), 10))
	defer c.tell(daemon.SdNotifyReady)
	conf, err := c.opts.configuration()
	if err == nil {
		err = c.configureLog(conf)
	}
	if err != nil {
		c.logger.Error("configuration is not read again: what was in force stays", "error", err)
		return
	}
	c.conf = conf
	c.limits()
	for _, w := range conf.Warnings {
		c.logger.Warn(w)
	}
	c.logger.Info("configuration is read again", "file", c.opts.config)
}

// monotonic is the time of the clock that systemd compares with, in microseconds.
func monotonic() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return now.Nano() / 1000
}

// ready tells whoever waits that the daemon serves.
func (c *control) ready() {
	c.tell(daemon.SdNotifyReady)
	if c.background == nil {
		return
	}
	if err := c.background.Ready(); err != nil {
		c.logger.Warn("cannot say that the daemon is ready", "error", err)
	}
	c.background = nil
}

// tell tells systemd.
func (c *control) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		c.logger.Warn("cannot tell systemd", "error", err)
	}
}

// lockService is the lock server as administrators see it.
type lockService struct {
	*lockserver.Server
	mu                 sync.Mutex
	maxUnauthenticated uint32
}

var _ adminserver.Service = (*lockService)(nil)

// Name implements adminserver.Service.
func (s *lockService) Name() string { return lockserver.Name }

// Clients implements adminserver.Service.
func (s *lockService) Clients() []adminserver.Client {
	all := s.Server.Clients()
	out := make([]adminserver.Client, len(all))
	for i, c := range all {
		out[i] = adminserver.Client{
			ID: c.ID, Since: c.Connected, ReadOnly: c.ReadOnly, Peer: &adminserver.Peer{UID: c.UID, GID: c.GID, PID: c.PID},
		}
	}
	return out
}

// Disconnect implements adminserver.Service.
func (s *lockService) Disconnect(id uint64) bool { return s.CloseClient(id) }

// Limits implements adminserver.Service.
func (s *lockService) Limits() adminserver.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.Server.Limits()
	most := uint32(l.MaxClients)
	return adminserver.Limits{Clients: uint32(l.Clients), MaxClients: most, MaxUnauthenticated: min(s.maxUnauthenticated, most)}
}

// SetLimits implements adminserver.Service.
func (s *lockService) SetLimits(clients, unauthenticated uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.SetMaxClients(int(clients))
	s.maxUnauthenticated = unauthenticated
}
