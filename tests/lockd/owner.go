package lockd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/wire"
)

// ownerEnv names the socket that a process which owns its locks itself connects to.
const ownerEnv = "LODGE_LOCKD_OWNER"

// RunOwner turns this process into one that owns locks itself if it was started as one, and then does not return.
func RunOwner() {
	socket := os.Getenv(ownerEnv)
	if socket == "" {
		return
	}
	if err := ownItself(socket); err != nil {
		fmt.Fprintln(os.Stderr, "owner:", err)
		os.Exit(1)
	}
	time.Sleep(time.Hour)
	os.Exit(0)
}

// ownItself connects, hands the connection to the parent through descriptor 3, and keeps no copy of it: the daemon has noted who connected.
func ownItself(socket string) error {
	c, err := Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(c.conn.Descriptor()), nil, 0); err != nil {
		return fmt.Errorf("hand over connection: %w", err)
	}
	return unix.Close(3)
}

// Birth starts a process that connects to a lock daemon, and returns it with its connection: to the daemon, what is said on that
// connection is said by the process.
func Birth(ctx context.Context, socket string) (*exec.Cmd, *Client, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("start owner: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe")
	cmd.Env = append(os.Environ(), ownerEnv+"="+socket)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start owner: %w", err)
	}
	_ = theirs.Close() // The process has it now; if it ends the connection ends.
	c, err := receive(pair[0])
	if err != nil {
		return nil, nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, c, nil
}

// receive takes a connection from a socket.
func receive(fd int) (*Client, error) {
	limit := unix.NsecToTimeval(endWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("receive connection: %w", err)
	}
	f, err := wire.ReceiveFile(fd)
	if err != nil {
		return nil, fmt.Errorf("receive connection: %w", err)
	}
	defer f.Close()
	dup, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("receive connection: %w", err)
	}
	c := Over(dup)
	if err := c.SetPatience(endWait); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
