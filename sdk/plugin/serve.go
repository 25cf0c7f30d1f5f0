package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// OrphanGrace is how long a plugin goes on without a core before it ends, leaving its guests alone, unless the core said
// otherwise when it started the plugin.
const OrphanGrace = 10 * time.Minute

// Plugin is what Serve serves.
type Plugin struct {
	// Name as in the manifest, at most 64 bytes.
	Name string
	// Version is a semantic version.
	Version string
	// ConfigKeys are the keys that the plugin's own configuration table may have.
	ConfigKeys []*basev1.ConfigKey
	// Hypervisor makes the driver of a hypervisor. It is called once, before the first call arrives: Settings are empty still,
	// and State may be slow. Its driver may also be a Configurer, a Diagnoser or a Closer.
	Hypervisor func(Core) (hypervisor.Driver, error)
	// Inventory makes the driver of a hypervisor that keeps its objects itself, in the same way.
	Inventory func(Core) (inventory.Driver, error)
	// LockManager makes a lock manager, in the same way.
	LockManager func(Core) (lock.Manager, error)
	// Storage makes a storage driver, in the same way.
	Storage func(Core) (storage.Driver, error)
	// Commands are hidden sub-commands: when the first argument is one of the names, that function runs in place of the
	// plugin, with the arguments after it, and its result is the exit status.
	Commands map[string]func(args []string) int
	// Failpoints are the fault injections of the plugin; nil takes them from the environment.
	Failpoints *failpoint.Set
}

// Configurer is an optional interface of a driver that wants to know of new settings at once.
type Configurer interface {
	// Configure takes new settings, without losing a guest, or answers verr.ConfigUnsupported and goes on with the old ones.
	Configure(ctx context.Context, settings Settings) error
}

// Diagnoser is an optional interface of a driver that has facts for an operator.
type Diagnoser interface {
	// Diagnose returns facts by name, at once.
	Diagnose(ctx context.Context) map[string]string
}

// Closer is an optional interface of a driver that has something to put away before the process ends. Its guests live on.
type Closer interface {
	// Close ends the driver.
	Close(ctx context.Context) error
}

// Serve serves the plugin to the core that started this process, and ends the process: with status 0 after Shutdown, SIGTERM or
// when the core stays away, with 1 if it could not serve, with 2 if no core started it.
func Serve(p Plugin) {
	if len(os.Args) > 1 {
		if command, ok := p.Commands[os.Args[1]]; ok {
			os.Exit(command(os.Args[2:]))
		}
	}
	if os.Getenv(handshake.CookieKey) != handshake.CookieValue {
		fmt.Fprintf(os.Stderr, "%s is a driver of lodge; lodged starts it when it is needed\n", p.Name)
		os.Exit(2)
	}
	os.Exit(serveProcess(p))
}

func serveProcess(p Plugin) (status int) {
	// A write to the log of a core that is gone must not kill the plugin.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "panic while serving: %v\n%s\n", r, debug.Stack())
			status = 1
		}
	}()
	nameProcess(p.Name)
	line, err := takeStdout()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := serveFromEnvironment(ctx, p, line); err != nil {
		fmt.Fprintf(os.Stderr, "serve plugin %q: %v\n", p.Name, err)
		return 1
	}
	return 0
}

// nameProcess gives the process a name for ps: it was executed by a descriptor, whose number would be its name otherwise.
func nameProcess(name string) {
	const longest = 15
	name = "lodge-" + name
	// Only people look at it.
	_ = os.WriteFile("/proc/self/comm", []byte(name[:min(len(name), longest)]), 0)
}

// takeStdout returns the standard output, on which the core waits for one line, and points descriptor 1 at the standard error: what
// the driver, its libraries or its children print neither disturbs the handshake nor ever blocks or dies of a closed pipe.
func takeStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(unix.Stdout), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("take the standard output: %w", err)
	}
	if err := unix.Dup3(unix.Stderr, unix.Stdout, 0); err != nil {
		return nil, fmt.Errorf("point the standard output at the standard error: %w", err)
	}
	return os.NewFile(uintptr(fd), "handshake"), nil
}

func serveFromEnvironment(ctx context.Context, p Plugin, line *os.File) error {
	defer func() { _ = line.Close() }()
	version, err := handshake.Negotiate(os.Getenv(handshake.VersionsKey), []int{handshake.Protocol})
	if err != nil {
		return err
	}
	grace := OrphanGrace
	if text := os.Getenv(handshake.OrphanKey); text != "" {
		if grace, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("read %s: %w", handshake.OrphanKey, err)
		}
	}
	if p.Failpoints == nil {
		if p.Failpoints, err = failpoint.Parse(os.Getenv(handshake.FailpointsKey)); err != nil {
			return err
		}
	}
	announce := func(socket string) error {
		_, werr := line.WriteString(handshake.Line(version, socket))
		return errors.Join(werr, line.Close())
	}
	return run(ctx, p, os.Getenv(handshake.DirKey), grace, announce)
}

// Run serves the plugin in this process, on the sockets in dir, until the context ends or Shutdown is called. It is Serve without the
// process, for tests; package faketest puts a core around it.
func Run(ctx context.Context, p Plugin, dir string) error {
	return run(ctx, p, dir, OrphanGrace, func(string) error { return nil })
}
