package hub

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// receive reads once, without waiting. The end of the connection is io.EOF. Descriptors that come along are kept until a call takes them;
// those that no frame can be meant to carry are closed.
func (c *Client) receive(b []byte) (int, error) {
	var oob [rights]byte
	n, oobn, _, _, err := unix.Recvmsg(c.fd, b, oob[:], unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if oobn > 0 {
		c.files = append(c.files, received(oob[:oobn])...)
		if len(c.files) > rpc.MaxFDs {
			c.hub.discardAll(c.files[rpc.MaxFDs:])
			c.files = c.files[:rpc.MaxFDs]
		}
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// rights is the size of a control message with as many descriptors as a frame may carry; the kernel closes those that do not fit.
const rights = unix.SizeofCmsghdr + 4*rpc.MaxFDs

// received returns the descriptors in control messages.
func received(oob []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files
}

// transmit writes once, without waiting, and a file's descriptor with the first byte.
func transmit(fd int, b []byte, file *os.File) (int, error) {
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	return unix.SendmsgN(fd, b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// peerOf returns who connected.
func peerOf(fd int) (unix.Ucred, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return unix.Ucred{}, fmt.Errorf("check peer: %w", err)
	}
	return *cred, nil
}

// fileOf makes a file of a descriptor, or nil of -1.
func fileOf(fd int) *os.File {
	if fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), "to be sent")
}

// own makes a socket that came from elsewhere like one that was made here.
func own(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}
