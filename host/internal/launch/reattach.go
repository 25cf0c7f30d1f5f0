package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// ErrGone says that the process of a record does not run any more.
var ErrGone = errors.New("the process is gone")

// killWait is how long the end of a half-started process is waited for.
const killWait = 2 * time.Second

// Reattach finds the process of the record in a plugin's folder again. A process that had not come as far as its handshake is
// killed. The error wraps ErrGone or os.ErrNotExist if there is none to reattach to; any other error means that the record cannot
// be read, and nothing was touched.
func Reattach(dir string, log hclog.Logger) (*Process, error) {
	record, err := ReadRecord(dir)
	if err != nil {
		return nil, err
	}
	p, err := find(record, dir)
	if err != nil {
		return nil, err
	}
	if record.Address == "" {
		return nil, errors.Join(ErrGone, p.end())
	}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: words, Plugins: goplugin.PluginSet{}, Logger: quiet(log),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Reattach: &goplugin.ReattachConfig{
			Protocol: goplugin.ProtocolGRPC, ProtocolVersion: record.Protocol, Pid: record.PID,
			Addr:         &net.UnixAddr{Name: record.Address, Net: "unix"},
			ReattachFunc: func() (runner.AttachedRunner, error) { return attached{p}, nil },
		},
	})
	addr, err := client.Start()
	if err == nil {
		err = checkAddr(dir, addr)
	}
	if err != nil {
		p.Release()
		return nil, fmt.Errorf("reattach to process %d: %w", record.PID, err)
	}
	return p, nil
}

// find takes charge of the process if it is that of the record. The pidfd comes first: what it names cannot change any more.
func find(record Record, dir string) (*Process, error) {
	if record.BootID != bootID() {
		return nil, fmt.Errorf("reattach to process %d of an earlier boot: %w", record.PID, ErrGone)
	}
	fd, err := unix.PidfdOpen(record.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("reattach to process %d: %w", record.PID, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("reattach to process %d: %w", record.PID, err)
	}
	start, err := procfs.StartTime(record.PID)
	if err != nil || start != record.StartTime || pidfdReadable(uintptr(fd)) {
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reattach to process %d: %w", record.PID, err)
		}
		return nil, fmt.Errorf("reattach to process %d: %w", record.PID, ErrGone)
	}
	p := &Process{record: record, dir: dir, exited: make(chan struct{}), ended: make(chan struct{})}
	p.adopt(fd)
	return p, nil
}

// end kills the process and waits for its end for a moment.
func (p *Process) end() error {
	if err := p.Kill(); err != nil {
		p.Release()
		return err
	}
	select {
	case <-p.Exited():
		return nil
	case <-time.After(killWait):
		p.Release()
		return fmt.Errorf("process %d does not end", p.record.PID)
	}
}

// attached is go-plugin's runner for a process that runs already.
type attached struct{ process *Process }

var _ runner.AttachedRunner = attached{}

// Wait returns when the process has exited or was released.
func (a attached) Wait(ctx context.Context) error { return a.process.wait(ctx) }

// Kill ends the process.
func (a attached) Kill(context.Context) error { return a.process.Kill() }

// ID is the pid.
func (a attached) ID() string { return fmt.Sprint(a.process.record.PID) }

// PluginToHost leaves addresses as they are.
func (a attached) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin leaves addresses as they are.
func (a attached) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
