package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/adminserver"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/version"
)

const (
	// recoverFor bounds how long clients wait at the start for locks that are slow to take back, such as on a dead NFS server.
	recoverFor = 2 * time.Second
	// oomScore makes the kernel look for other victims first, as virtlockd's unit does.
	oomScore = "-900"
)

// serve runs the daemon until the context ends, or until nobody has used it for its timeout.
func serve(ctx context.Context, o options, c *control) error {
	if err := o.folder(); err != nil {
		return err
	}
	unix.Umask(0o077)
	// Calls are short and mostly the kernel's. One processor more than the one that works keeps the runtime from waking threads whenever
	// that one waits in the kernel; further ones gain nothing.
	runtime.GOMAXPROCS(2)
	pid, err := pidfile.Claim(o.pidFile)
	if err != nil {
		return err
	}
	c.lower()
	return errors.Join(c.serveTable(ctx), pid.Release())
}

// lower makes the kernel look for others to kill for memory. It may refuse; then the daemon goes on as it is.
func (c *control) lower() {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0o600)
	if err != nil && os.Geteuid() == 0 {
		c.logger.Warn("cannot lower the chance to be killed for memory", "error", err)
	}
}

// serveTable opens the journal and serves what is in it.
func (c *control) serveTable(ctx context.Context) error {
	table, err := leases.Open(c.opts.journal, c.logger.Named("leases"))
	if err != nil {
		return err
	}
	for _, dir := range c.opts.spaces {
		if err := table.AddSpace(dir); err != nil && !errors.Is(err, leases.ErrSpaceExists) {
			return errors.Join(err, table.Close())
		}
	}
	if err := settle(ctx, table); err != nil {
		c.logger.Warn("some locks take long to come back", "error", err)
	}
	return errors.Join(c.serveSockets(ctx, table), table.Close())
}

// serveSockets serves clients and administrators.
func (c *control) serveSockets(ctx context.Context, table *leases.Table) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	connections, err := hub.New(c.logger.Named("rpc"), func(f *os.File) { _ = lockspace.CloseFile(f) })
	if err != nil {
		return err
	}
	server := lockserver.New(lockserver.Config{Hub: connections, Table: table, Log: c.logger.Named("rpc"), Version: version.String()})
	defer server.Close()
	admin := adminserver.NewServer(connections, "admin", c.conf.AdminMaxClients)
	c.attach(server, table, admin)
	listeners, err := c.opts.listen(c.logger)
	if err != nil {
		return err
	}
	for _, l := range listeners.locks {
		err = errors.Join(err, server.Listen(l))
	}
	for _, l := range listeners.admin {
		err = errors.Join(err, admin.Listen(l))
	}
	if err != nil {
		return err
	}
	c.logger.Info("lock daemon is ready", "pid", os.Getpid(), "socket", c.opts.socket, "leases", len(table.List()))
	c.ready()
	var all sync.WaitGroup
	all.Go(func() { c.run(ctx, end) })
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
