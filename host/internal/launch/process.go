package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lodgevirt/lodge/sdk/peer"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
)

// Process is a plugin's process.
type Process struct {
	record Record
	dir    string
	pidfd  *os.File
	child  bool
	exited chan struct{} // closed when the process is gone
	ended  chan struct{} // closed when the watching goroutine is done

	mu     sync.Mutex // guards status
	status string
}

// Record returns what is known of the process.
func (p *Process) Record() Record { return p.record }

// Exited is closed within milliseconds of the process' end. It stays open after Release.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status says in words how the process ended, once it has.
func (p *Process) Status() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Kill ends the process with SIGKILL and does not wait for it; Exited tells. A process that is gone is no error.
func (p *Process) Kill() error { return p.signal(unix.SIGKILL) }

// Abort makes a Go process write the stacks of its goroutines to its standard error and end. A stopped process does neither.
func (p *Process) Abort() error { return p.signal(unix.SIGABRT) }

// Release lets go of the process, which runs on.
func (p *Process) Release() {
	_ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) // ends watch
	<-p.ended
}

func (p *Process) signal(sig unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil // released or gone
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return nil // released or gone
	}
	if serr != nil && !errors.Is(serr, unix.ESRCH) {
		return fmt.Errorf("signal plugin process %d: %w", p.record.PID, serr)
	}
	return nil
}

// wait returns when the process has exited or was released, or the context ends.
func (p *Process) wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handshaken completes the record once the process listens.
func (p *Process) handshaken(addr net.Addr, protocol int) error {
	if err := checkAddr(p.dir, addr); err != nil {
		return err
	}
	p.record.Address = addr.String()
	p.record.Protocol = protocol
	return p.record.write(p.dir)
}

// watch waits for the end of the process. It owns the pidfd.
func (p *Process) watch() {
	defer close(p.ended)
	defer func() { _ = p.pidfd.Close() }()
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	if err := raw.Read(pidfdReadable); err != nil {
		return // released
	}
	status := "ended"
	if p.child {
		status = reap(p.record.PID)
	}
	p.mu.Lock()
	p.status = status
	p.mu.Unlock()
	close(p.exited)
}

// pidfdReadable reports whether the process has exited.
func pidfdReadable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Dial returns a connection to the process. It connects on demand and again after a break, and only to that very process.
// Nothing is ever sent twice by it.
func (p *Process) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	all := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(p.dial),
		grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(handshake.MaxMessage), grpc.MaxCallSendMsgSize(handshake.MaxMessage)),
	}, opts...)
	conn, err := grpc.NewClient("passthrough:plugin", all...)
	if err != nil {
		return nil, fmt.Errorf("connect to plugin: %w", err)
	}
	return conn, nil
}

func (p *Process) dial(ctx context.Context, _ string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p.record.Address)
	if err != nil {
		return nil, err
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return conn, nil
	}
	cred, err := peer.Of(sc)
	if err == nil && cred.PID != p.record.PID {
		err = fmt.Errorf("socket %q belongs to process %d, not to %d", p.record.Address, cred.PID, p.record.PID)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// FilesSocket is the path of the socket for descriptors.
func (p *Process) FilesSocket() string { return filepath.Join(p.dir, handshake.FilesSocket) }
