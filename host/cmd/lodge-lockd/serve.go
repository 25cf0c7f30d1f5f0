package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/adminserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/reexec"
	"github.com/lodgevirt/lodge/host/internal/version"
)

const (
	// recoverFor bounds how long clients wait at the start for locks that are slow to take back, such as on a dead NFS server.
	recoverFor = 2 * time.Second
	// settled is when the daemon's start is over, and those that have waited for it are answered.
	settled = 100 * time.Millisecond
	// oomScore makes the kernel look for other victims first, as virtlockd's unit does.
	oomScore = "-900"
)

// serve runs the daemon until the context ends, or until nobody has used it for its timeout. A daemon that follows another one in this
// process does without what it cannot have, because its end would cost locks.
func serve(ctx context.Context, o options, c *control) error {
	// Nobody waits for memory in the moments until the daemon serves; what has become garbage then is given back a little later.
	percent := debug.SetGCPercent(-1)
	c.serving = func(ctx context.Context) {
		debug.SetGCPercent(percent)
		select {
		case <-ctx.Done():
		case <-time.After(settled):
			debug.FreeOSMemory()
		}
	}
	left := reexec.Find(reexec.Places{
		State: o.restart, PIDFile: o.pidFile, Sockets: map[string]string{lockserver.Name: o.socket, adminName: o.adminSocket},
	}, c.logger)
	// fatal returns an error that ends the daemon, or tells one that does not.
	fatal := func(err error) error {
		if err != nil && left.Left() {
			c.logger.Error("daemon goes on without something, because other processes' locks depend on it", "error", err)
			return nil
		}
		return err
	}
	if err := fatal(o.folder()); err != nil {
		return err
	}
	unix.Umask(0o077)
	// Calls are short and mostly the kernel's. One processor more than the one that works keeps the runtime from waking threads whenever
	// that one waits in the kernel; further ones gain nothing.
	runtime.GOMAXPROCS(2)
	pid, err := pidfile.Inherit(o.pidFile, left.PIDFile())
	if err := fatal(err); err != nil {
		return err
	}
	c.lower()
	err = c.serveTable(ctx, left, fatal, pid)
	if pid != nil {
		err = errors.Join(err, pid.Release())
	}
	return err
}

// lower makes the kernel look for others to kill for memory. It may refuse; then the daemon goes on as it is.
func (c *control) lower() {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0o600)
	if err != nil && os.Geteuid() == 0 {
		c.logger.Warn("cannot lower the chance to be killed for memory", "error", err)
	}
}

// serveTable opens the journal and serves what is in it.
func (c *control) serveTable(ctx context.Context, left *reexec.Predecessor, fatal func(error) error, pid *pidfile.File) error {
	table, err := leases.TakeOver(c.opts.journal, c.logger.Named("leases"), left.Leases())
	if err != nil {
		if err := fatal(err); err != nil {
			return err
		}
		if table, err = c.spareTable(left); err != nil {
			return err
		}
	}
	for _, dir := range c.opts.spaces {
		if err := table.AddSpace(dir); err != nil && !errors.Is(err, leases.ErrSpaceExists) && fatal(err) != nil {
			return errors.Join(err, table.Close())
		}
	}
	if err := settle(ctx, table); err != nil {
		c.logger.Warn("some locks take long to come back", "error", err)
	}
	c.program = &reexec.Program{Table: table, State: c.opts.restart, Args: os.Args, Log: c.logger}
	if pid != nil {
		c.program.PIDFile = pid
	}
	return errors.Join(c.serveSockets(ctx, table, left, fatal), table.Close())
}

// spareTable takes a predecessor's locks over with a journal that nobody will find, when the daemon's own cannot be used.
func (c *control) spareTable(left *reexec.Predecessor) (*leases.Table, error) {
	dir, err := os.MkdirTemp("", "lodge-lockd")
	if err != nil {
		return nil, fmt.Errorf("make a spare journal: %w", err)
	}
	c.logger.Error("leases are not remembered beyond this process", "journal", dir)
	return leases.TakeOver(dir+"/journal", c.logger.Named("leases"), left.Leases())
}

// serveSockets serves clients and administrators.
func (c *control) serveSockets(ctx context.Context, table *leases.Table, left *reexec.Predecessor, fatal func(error) error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	connections, err := hub.New(c.logger.Named("rpc"), func(f *os.File) { _ = lockspace.CloseFile(f) })
	if err != nil {
		return err
	}
	server := lockserver.New(lockserver.Config{Hub: connections, Table: table, Log: c.logger.Named("rpc"), Version: version.String()})
	defer server.Close()
	admin := adminserver.NewServer(connections, adminName, c.conf.AdminMaxClients)
	c.attach(server, table, admin)
	left.Adopt(connections, server)
	listeners, err := c.opts.listen(c.logger, left)
	if err := fatal(err); err != nil {
		return err
	}
	err = nil
	for _, l := range listeners.locks {
		err = errors.Join(err, server.Listen(l))
	}
	for _, l := range listeners.admin {
		err = errors.Join(err, admin.Listen(l))
	}
	if err := fatal(err); err != nil {
		return err
	}
	c.program.Hub, c.program.Locks = connections, server
	n := table.Counts()
	c.logger.Info("lock daemon is ready", "pid", os.Getpid(), "socket", c.opts.socket, "leases", n.Held+n.Unproven+n.Lost)
	c.ready()
	var all sync.WaitGroup
	all.Go(func() { c.run(ctx, end) })
	all.Go(func() { c.serving(ctx) })
	err = connections.Run(ctx)
	end()
	all.Wait()
	c.logger.Info("lock daemon ends; guests keep their locks")
	return err
}

// settle waits for the locks of the journal.
func settle(ctx context.Context, table *leases.Table) error {
	ctx, cancel := context.WithTimeout(ctx, recoverFor)
	defer cancel()
	return table.Recovered(ctx)
}
