package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/lodgevirt/lodge/tests/peer"
)

// libvirtd is the real one, inside a jail.
type libvirtd struct {
	dir string
	*peer.Libvirt
}

func newLibvirtd(dir string) *libvirtd { return &libvirtd{dir: dir} }

func (p *libvirtd) name() string   { return "libvirtd" }
func (p *libvirtd) socket() string { return p.Socket() }
func (p *libvirtd) uri() string    { return "qemu:///system" }

// settle has nothing to wait for: libvirtd is one process, and up when it answers.
func (p *libvirtd) settle(context.Context) error { return nil }

func (p *libvirtd) pids() []int {
	if pid := p.PID(); pid != 0 {
		return []int{pid}
	}
	return nil
}

func (p *libvirtd) launch(ctx context.Context) error {
	if err := p.build(ctx); err != nil {
		return err
	}
	return p.Launch()
}

func (p *libvirtd) stop(context.Context) error { return p.Stop() }
func (p *libvirtd) kill(context.Context) error { return p.Kill() }

func (p *libvirtd) seed(ctx context.Context, n int) error {
	if err := p.build(ctx); err != nil {
		return err
	}
	if err := p.Stop(); err != nil {
		return err
	}
	return writeDefinitions(filepath.Join(p.dir, "etc", "qemu"), n)
}

// build makes the jail once.
func (p *libvirtd) build(ctx context.Context) (err error) {
	if p.Libvirt == nil {
		p.Libvirt, err = peer.Build(ctx, p.dir)
	}
	return err
}

func (p *libvirtd) close() error {
	var err error
	if p.Libvirt != nil {
		err = p.Close()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
