package door

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection, as the kernel says.
type Peer struct {
	// PID, UID and GID are those of the process that connected. PID is 0 if it is in another pid namespace.
	PID int32
	UID uint32
	GID uint32
}

// Policy returns why a peer may not connect, or nil. Read-only sockets are asked about too.
type Policy func(peer Peer, readOnly bool) error

// DefaultPolicy lets root and the daemon's own user connect to any socket, and everybody to read-only ones.
func DefaultPolicy(peer Peer, readOnly bool) error {
	if readOnly || peer.UID == 0 || peer.UID == uint32(os.Geteuid()) {
		return nil
	}
	return fmt.Errorf("user %d may not connect to the read-write socket", peer.UID)
}

// peerOf reads the credentials of a unix socket's peer.
func peerOf(conn net.Conn) (Peer, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("read peer of %T: not a unix socket", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("read peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, fmt.Errorf("read peer: %w", err)
	}
	if credErr != nil {
		return Peer{}, fmt.Errorf("read peer: %w", credErr)
	}
	return Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}
