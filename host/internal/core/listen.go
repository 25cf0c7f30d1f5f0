package core

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"github.com/lodgevirt/lodge/host/internal/admin"
)

// socket is a bound socket with what serves it.
type socket struct {
	listener net.Listener
	serve    func(context.Context) error
}

func (s socket) close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listen binds the sockets of the doors.
func (h *Host) listen() error {
	l, group := h.cfg.Layout, h.cfg.Settings.Sockets.Group
	readWrite := os.FileMode(0o700)
	if group != "" {
		readWrite = 0o770
	}
	for _, s := range []struct {
		path  string
		mode  os.FileMode
		group string
		serve func(context.Context, net.Listener) error
	}{
		{l.Libvirt(), readWrite, group, func(ctx context.Context, lis net.Listener) error { return h.serveDoor(ctx, lis, false) }},
		{l.LibvirtReadOnly(), 0o777, "", func(ctx context.Context, lis net.Listener) error { return h.serveDoor(ctx, lis, true) }},
		{l.Admin(), 0o600, "", h.serveAdmin},
	} {
		lis, err := bind(s.path, s.mode, s.group)
		if err != nil {
			return err
		}
		h.sockets = append(h.sockets, socket{lis, func(ctx context.Context) error { return s.serve(ctx, lis) }})
	}
	return nil
}

func (h *Host) serveDoor(ctx context.Context, lis net.Listener, readOnly bool) error {
	err := h.door.Serve(ctx, lis, readOnly)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, h.door.Shutdown(stop))
}

func (h *Host) serveAdmin(ctx context.Context, lis net.Listener) error {
	g := admin.New(ctx, h, h.events)
	stop := context.AfterFunc(ctx, g.GracefulStop)
	defer stop()
	return g.Serve(lis)
}

// bind makes a unix socket in place of one that a core left behind; the pid file's lock says that nobody serves it.
func bind(path string, mode os.FileMode, group string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	lis, err := new(net.ListenConfig).Listen(context.Background(), "unix", path) // binding does not wait
	if err != nil {
		return nil, fmt.Errorf("bind socket: %w", err)
	}
	if err := errors.Join(os.Chmod(path, mode), chgrp(path, group)); err != nil {
		return nil, errors.Join(fmt.Errorf("give socket to its users: %w", err), lis.Close())
	}
	return lis, nil
}

func chgrp(path, group string) error {
	if group == "" {
		return nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("group %q of sockets.group: %w", group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %q has no number: %w", group, err)
	}
	return os.Chown(path, -1, gid)
}
