package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/version"
)

const (
	// recoverFor bounds how long clients wait at the start for locks that are slow to take back, such as on a dead NFS server.
	recoverFor = 2 * time.Second
	// oomScore makes the kernel look for other victims first, as virtlockd's unit does.
	oomScore = "-900"
)

// errRunning says that another daemon has the pid file.
var errRunning = errors.New("another lock daemon is running")

// serve runs the daemon until the context ends.
func serve(ctx context.Context, o options, log hclog.Logger) error {
	unix.Umask(0o077)
	// Calls are short and mostly the kernel's. One processor more than the one that works keeps the runtime from waking threads whenever
	// that one waits in the kernel; further ones gain nothing.
	runtime.GOMAXPROCS(2)
	pid, err := claim(o.pidFile)
	if err != nil {
		return err
	}
	defer pid.Close()
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0o600); err != nil {
		log.Debug("cannot lower the chance to be killed for memory", "error", err)
	}
	table, err := leases.Open(o.journal, log)
	if err != nil {
		return err
	}
	for _, dir := range o.spaces {
		if err := table.AddSpace(dir); err != nil && !errors.Is(err, leases.ErrSpaceExists) {
			return errors.Join(err, table.Close())
		}
	}
	if err := settle(ctx, table); err != nil {
		log.Warn("some locks take long to come back", "error", err)
	}
	listeners, err := listen(o.socket)
	if err != nil {
		return errors.Join(err, table.Close())
	}
	log.Info("lock daemon is ready", "pid", os.Getpid(), "socket", o.socket, "leases", len(table.List()))
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		log.Warn("cannot tell systemd", "error", err)
	}
	connections, err := hub.New(log, func(f *os.File) { _ = lockspace.CloseFile(f) })
	if err != nil {
		return errors.Join(err, table.Close())
	}
	server := lockserver.New(lockserver.Config{
		Hub: connections, Table: table, Log: log, Version: version.String(), MaxClients: o.maxClients,
	})
	for _, l := range listeners {
		if err := server.Listen(l); err != nil {
			return errors.Join(err, table.Close())
		}
	}
	err = connections.Run(ctx)
	log.Info("lock daemon ends; guests keep their locks")
	server.Close()
	return errors.Join(err, table.Close())
}

// settle waits for the locks of the journal.
func settle(ctx context.Context, table *leases.Table) error {
	ctx, cancel := context.WithTimeout(ctx, recoverFor)
	defer cancel()
	return table.Recovered(ctx)
}

// claim locks the pid file for as long as this process lives, and writes the pid into it. The file is never removed, because
// another daemon may just be opening it.
func claim(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open pid file: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errRunning
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("claim pid file %q: %w", path, err)
	}
	return f, nil
}

// listen returns the sockets that systemd passed, or makes the one at path. A socket that nobody serves any more is replaced.
func listen(path string) ([]hub.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	var out []hub.Listener
	for _, l := range passed {
		if u, ok := l.(*net.UnixListener); ok {
			listener, err := hub.FromNet(u, false)
			if err != nil {
				return nil, err
			}
			out = append(out, listener)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	dialer := net.Dialer{Timeout: recoverFor}
	if conn, err := dialer.DialContext(context.Background(), "unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %q: %w", path, errRunning)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove old socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	listener, err := hub.FromNet(l, true)
	if err != nil {
		return nil, err
	}
	return []hub.Listener{listener}, nil
}
