// Package launch starts a plugin's process and finds it again. It is the only package of the host that knows hashicorp/go-plugin,
// and uses of it the handshake and the negotiation of versions, through a runner of its own; the process and the connection are
// handled here, because go-plugin's Kill and Ping do not return when a plugin hangs and its broker does not live through a
// reattach.
//
// A process is nobody's to lose: it runs in a session of its own, with its standard error in a file, and is known by a record
// (process.json in its private folder) of pid and start time, by which a core that was killed finds it again. It is watched and
// signalled through a pidfd only, so that a pid that is used again is never taken for it.
//
// A Process is safe concurrently. It holds a pidfd and one goroutine until it has exited or is released.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
)

// startTimeout is how long a process may take from its start to its handshake.
const startTimeout = 15 * time.Second

// words are go-plugin's handshake.
var words = goplugin.HandshakeConfig{
	ProtocolVersion: handshake.Protocol, MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue,
}

// Config says what to start, and how.
type Config struct {
	// Name of the plugin.
	Name string
	// Binary is the verified executable: this descriptor is executed. The caller keeps and closes it.
	Binary *os.File
	// Path is the executable's, for people: argument 0 of the process.
	Path string
	// Args are further arguments.
	Args []string
	// Dir is the private folder, which must exist with mode 0700.
	Dir string
	// LogFile takes the standard error; it is appended to.
	LogFile string
	// Env is the environment beside that of the handshake.
	Env []string
	// Protocol are the versions of the contract that the core speaks.
	Protocol []int
	// Generation counts the plugin's processes.
	Generation uint64
	// OrphanGrace is how long the process goes on without a core; 0 is the SDK's default.
	OrphanGrace time.Duration
	// OpenFiles is the process' RLIMIT_NOFILE, 0 leaves it alone.
	OpenFiles uint64
	// Spawned, if it is set, is told the pid before the process can have done anything that depends on it.
	Spawned func(pid int)
	// Log takes what go-plugin says.
	Log hclog.Logger
}

// Start starts a process and waits for its handshake. After an error, nothing is left of it.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if err := handshake.CheckDir(cfg.Dir); err != nil {
		return nil, err
	}
	r := &processRunner{cfg: cfg}
	versions := make(map[int]goplugin.PluginSet, len(cfg.Protocol))
	for _, v := range cfg.Protocol {
		versions[v] = goplugin.PluginSet{}
	}
	timeout := startTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: words, VersionedPlugins: versions,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		RunnerFunc:       r.prepare, SkipHostEnv: true, StartTimeout: timeout,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: cfg.Dir},
		Logger:           quiet(cfg.Log),
	})
	stop := context.AfterFunc(ctx, func() { _ = r.Kill(context.Background()) })
	addr, err := client.Start()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = r.process.Load().handshaken(addr, client.NegotiatedVersion())
	}
	if err != nil {
		_ = r.Kill(context.Background())
		return nil, fmt.Errorf("start plugin %q: %w", cfg.Name, err)
	}
	return r.process.Load(), nil
}

// quiet keeps go-plugin's own talk at debug level.
func quiet(log hclog.Logger) hclog.Logger {
	if log == nil {
		return hclog.NewNullLogger()
	}
	return demoted{log.Named("launch")}
}

// demoted writes at debug level what go-plugin would have at a higher one: the supervisor tells what matters.
type demoted struct{ hclog.Logger }

// Info writes at debug level.
func (d demoted) Info(msg string, args ...any) { d.Debug(msg, args...) }

// Error writes at debug level.
func (d demoted) Error(msg string, args ...any) { d.Debug(msg, args...) }

// processRunner is go-plugin's runner for one start.
type processRunner struct {
	cfg     Config
	env     []string
	stdout  *os.File
	process atomic.Pointer[Process] // set once
}

var _ runner.Runner = (*processRunner)(nil)

// prepare implements RunnerFunc. The folder that go-plugin made for a socket is not used: the socket has a fixed name beside it.
func (r *processRunner) prepare(_ hclog.Logger, cmd *exec.Cmd, tmpDir string) (runner.Runner, error) {
	if err := os.Remove(tmpDir); err != nil {
		return nil, fmt.Errorf("remove unused folder: %w", err)
	}
	r.env = append(slices.Clone(cmd.Env), handshake.DirKey+"="+r.cfg.Dir)
	if r.cfg.OrphanGrace > 0 {
		r.env = append(r.env, handshake.OrphanKey+"="+r.cfg.OrphanGrace.String())
	}
	r.env = append(r.env, r.cfg.Env...)
	return r, nil
}

// Start forks and writes the first record, so that a core that is killed before the handshake leaves no unknown process.
func (r *processRunner) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, stdout, err := spawn(r.cfg, r.env)
	if err != nil {
		return err
	}
	r.stdout = stdout
	r.process.Store(p)
	if r.cfg.Spawned != nil {
		r.cfg.Spawned(p.record.PID)
	}
	if err := p.record.write(r.cfg.Dir); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

// Wait returns when the process has exited or was released.
func (r *processRunner) Wait(ctx context.Context) error { return r.process.Load().wait(ctx) }

// Kill ends the process.
func (r *processRunner) Kill(context.Context) error {
	if p := r.process.Load(); p != nil {
		return p.Kill()
	}
	return nil
}

// Stdout is where the handshake is read from.
func (r *processRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr is empty for go-plugin: it goes to a file.
func (r *processRunner) Stderr() io.ReadCloser { return io.NopCloser(eof{}) }

// Name is the executable's path.
func (r *processRunner) Name() string { return r.cfg.Path }

// ID is the pid.
func (r *processRunner) ID() string { return fmt.Sprint(r.process.Load().record.PID) }

// Diagnose says where to look.
func (r *processRunner) Diagnose(context.Context) string {
	return fmt.Sprintf("its standard error is in %s; it said at the end: %s", r.cfg.LogFile, tail(r.cfg.LogFile))
}

// PluginToHost leaves addresses as they are.
func (r *processRunner) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin leaves addresses as they are.
func (r *processRunner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// eof is an empty reader.
type eof struct{}

// Read implements io.Reader.
func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// maxTail is how much of a plugin's last words is quoted, in bytes.
const maxTail = 512

// tail returns the end of a file, for an error message.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > maxTail {
		if _, err := f.Seek(-maxTail, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, _ := io.ReadAll(io.LimitReader(f, maxTail)) // what could be read is good enough for a message
	return string(data)
}

// maxLog is how long the file of a plugin's standard error may become, in bytes.
const maxLog = 16 << 20

// BoundLog empties the file of a plugin's standard error if it has become too long, and reports whether it did. The process, which
// appends, may write on meanwhile.
func BoundLog(path string) (cut bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("bound log: %w", err)
	}
	if info.Size() <= maxLog {
		return false, nil
	}
	if err := os.Truncate(path, 0); err != nil {
		return false, fmt.Errorf("bound log: %w", err)
	}
	return true, nil
}

// checkAddr accepts only the socket that the contract names.
func checkAddr(dir string, addr net.Addr) error {
	want := filepath.Join(dir, handshake.PluginSocket)
	if addr.Network() != "unix" || addr.String() != want {
		return fmt.Errorf("plugin listens on %s %q instead of %q", addr.Network(), addr, want)
	}
	return nil
}
