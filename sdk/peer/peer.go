// Package peer says who is at the other end of a unix socket, and keeps everybody else out. Credentials are those of the moment at
// which the peer connected, as the kernel recorded them. All functions are safe concurrently.
package peer

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Credentials identifies a process.
type Credentials struct {
	// PID of the process that connected; 0 if it is in a pid namespace that cannot be seen from here.
	PID int
	// UID is its effective user id.
	UID int
	// GID is its effective group id.
	GID int
}

// Of returns the credentials of a unix socket's peer.
func Of(conn syscall.Conn) (Credentials, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", err)
	}
	if cerr != nil {
		return Credentials{}, fmt.Errorf("read peer credentials: %w", cerr)
	}
	return Credentials{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}, nil
}

// SameUser allows root and the user that this process runs as.
func SameUser(c Credentials) bool { return c.UID == 0 || c.UID == os.Geteuid() }

// Listener hands out only those connections of a unix listener whose peer is allowed; the others are closed.
type Listener struct {
	net.Listener
	// Allow decides on each connection.
	Allow func(Credentials) bool
}

// Accept waits for the next connection that is allowed.
func (l Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if sc, ok := conn.(syscall.Conn); ok {
			if cred, err := Of(sc); err == nil && l.Allow(cred) {
				return conn, nil
			}
		}
		_ = conn.Close()
	}
}
