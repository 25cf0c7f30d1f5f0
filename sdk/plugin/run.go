package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lodgevirt/lodge/sdk/internal/adapter"
	"github.com/lodgevirt/lodge/sdk/peer"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

const (
	// stopGrace is how long calls under way may take when the plugin ends.
	stopGrace = 2 * time.Second
	// healthService is the name under which go-plugin hosts ask for health.
	healthService = "plugin"
)

// run serves until the context ends, Shutdown is called or the core stays away for longer than grace; announce is called with the
// socket's path once it is listened on.
func run(ctx context.Context, p Plugin, dir string, grace time.Duration, announce func(socket string) error) error {
	if p.kinds() != 1 {
		return errors.New("the plugin must have a driver, and only one")
	}
	if err := handshake.CheckDir(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	link, err := connect(p.Name, dir)
	if err != nil {
		return err
	}
	defer link.close()
	server := grpc.NewServer(adapter.ServerOptions(link.Logger(), p.Failpoints)...)
	driver, err := p.make(link, server, ctx.Done())
	if err != nil {
		return fmt.Errorf("make the driver: %w", err)
	}
	service := &service{plugin: p, link: link, driver: driver, server: server, shutdown: cancel}
	basev1.RegisterPluginServiceServer(server, service)
	hs := health.NewServer()
	hs.SetServingStatus(healthService, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, hs)
	service.describe()

	listener, err := listen(filepath.Join(dir, handshake.PluginSocket))
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	orphaned := make(chan struct{})
	go func() {
		defer close(orphaned)
		watchCore(ctx, link.conn, grace)
		cancel()
	}()
	if err := announce(listener.Addr().String()); err != nil {
		cancel()
		err = fmt.Errorf("announce the socket: %w", err)
		return errors.Join(err, end(service, served, orphaned))
	}
	select {
	case <-ctx.Done():
	case err := <-served:
		served <- nil
		return errors.Join(err, end(service, served, orphaned))
	}
	return end(service, served, orphaned)
}

// kinds counts the drivers that the plugin could make.
func (p Plugin) kinds() int {
	n := 0
	for _, has := range []bool{p.Hypervisor != nil, p.Inventory != nil, p.LockManager != nil, p.Storage != nil} {
		if has {
			n++
		}
	}
	return n
}

// make makes the driver and registers its services; it returns what may have optional interfaces.
func (p Plugin) make(link *link, server *grpc.Server, done <-chan struct{}) (any, error) {
	switch {
	case p.LockManager != nil:
		manager, err := p.LockManager(link)
		if err == nil {
			adapter.RegisterLock(server, manager, done)
		}
		return manager, err
	case p.Inventory != nil:
		driver, err := p.Inventory(link)
		if err == nil {
			adapter.RegisterInventory(server, driver, link, done)
		}
		return driver, err
	case p.Storage != nil:
		driver, err := p.Storage(link)
		if err == nil {
			adapter.RegisterStorage(server, driver, link)
		}
		return driver, err
	}
	driver, err := p.Hypervisor(link)
	if err == nil {
		adapter.Register(server, driver, link.feed, done)
	}
	return driver, err
}

// end stops serving and puts the driver away.
func end(s *service, served <-chan error, orphaned <-chan struct{}) error {
	s.shutdown()
	force := time.AfterFunc(stopGrace, s.server.Stop)
	defer force.Stop()
	s.server.GracefulStop()
	err := <-served
	<-orphaned
	if closer, ok := s.driver.(Closer); ok {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		err = errors.Join(err, closer.Close(ctx))
	}
	return err
}

// listen replaces the socket of an earlier process. Only root and the own user may connect.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket %q: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // an orphan must not take its successor's socket away
	return peer.Listener{Listener: l, Allow: peer.SameUser}, nil
}

// watchCore returns when the context ends, or when the core has been away for grace without a break.
func watchCore(ctx context.Context, conn *grpc.ClientConn, grace time.Duration) {
	for ctx.Err() == nil {
		state := conn.GetState()
		if state == connectivity.Ready {
			conn.WaitForStateChange(ctx, state)
			continue
		}
		if !comesBack(ctx, conn, grace) {
			return
		}
	}
}

// comesBack waits for the core for at most grace.
func comesBack(ctx context.Context, conn *grpc.ClientConn, grace time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return true
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}
