package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/reexec"
)

// dialTimeout bounds how long it takes to find out whether somebody serves a socket.
const dialTimeout = 2 * time.Second

// adminName is what virtlockd calls the service for administrators.
const adminName = "admin"

// adminNames are the names by which systemd passes the socket for administrators; every other one is for locks.
var adminNames = map[string]bool{"virtlockd-admin.socket": true, "lodge-lockd-admin.socket": true}

// sockets are where the daemon listens.
type sockets struct {
	locks, admin []hub.Listener
}

// folder makes the folder of the socket where it is the one that a fresh machine or a fresh session does not have. Others serve beside us
// in the system's, so everybody may enter it. All other folders are there, or a path is wrong, which is better told.
func (o options) folder() error {
	at, err := defaultPaths()
	if err != nil {
		return err
	}
	dir := filepath.Dir(o.socket)
	if _, err := os.Stat(dir); err == nil || dir != filepath.Dir(at.socket) {
		return nil
	}
	mode := folderMode()
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

// folderMode is the mode of folders that are made: libvirt's own daemons serve beside root's, under users of their own.
func folderMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o755
	}
	return 0o700
}

// listen takes the sockets that systemd has passed, and makes those that it has not. Those that a predecessor in this process has left are
// there already: systemd's are among them, and the numbers by which they were passed to it may be those of locks now.
func (o options) listen(log hclog.Logger, left *reexec.Predecessor) (sockets, error) {
	var s sockets
	if !left.Left() {
		var err error
		if s, err = passed(log); err != nil {
			return s, err
		}
	}
	for _, want := range []struct {
		into *[]hub.Listener
		name string
		path string
	}{{&s.locks, lockserver.Name, o.socket}, {&s.admin, adminName, o.adminSocket}} {
		if len(*want.into) > 0 || want.path == "" || left.Listening(want.name) {
			continue
		}
		l, err := makeSocket(want.path)
		if err != nil {
			return s, err
		}
		*want.into = append(*want.into, l)
	}
	return s, nil
}

// passed returns the sockets that systemd has passed.
func passed(log hclog.Logger) (sockets, error) {
	var s sockets
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return s, fmt.Errorf("take sockets from systemd: %w", err)
	}
	for name, listeners := range byName {
		for _, l := range listeners {
			u, ok := l.(*net.UnixListener)
			if !ok {
				log.Warn("systemd has passed what is no unix socket: it is not used", "name", name)
				continue
			}
			path := u.Addr().String()
			listener, err := hub.FromNet(u, false)
			if err != nil {
				return s, err
			}
			// Without names, the path tells.
			if adminNames[name] || strings.HasSuffix(path, "-admin-sock") {
				s.admin = append(s.admin, listener)
			} else {
				s.locks = append(s.locks, listener)
			}
		}
	}
	return s, nil
}

// makeSocket listens on a path. A socket that nobody serves any more is replaced.
func makeSocket(path string) (hub.Listener, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if conn, err := dialer.DialContext(context.Background(), "unix", path); err == nil {
		conn.Close()
		return hub.Listener{}, fmt.Errorf("listen on %q: %w", path, pidfile.ErrLocked)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return hub.Listener{}, fmt.Errorf("remove old socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return hub.Listener{}, fmt.Errorf("listen on %q: %w", path, err)
	}
	return hub.FromNet(l, true)
}
