// Package faketest stands in for the core in tests of drivers.
//
// Core is a plugin.Core in memory, for unit tests that call a driver's methods directly. Start and Client put a whole core around a
// plugin: its real server on real sockets, with the core's services behind them, so that a test sees what the core would see,
// descriptors included.
//
// Everything is safe concurrently, ends with the test that made it, and reports its own failures to that test.
package faketest

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of the core's StateService.
const (
	maxKey   = 256
	maxValue = 1 << 20
)

// Core is a plugin.Core in memory.
type Core struct {
	logger hclog.Logger
	state  *state

	mu       sync.Mutex // guards all below
	settings plugin.Settings
	files    map[fdpass.Token]*os.File
	events   []*pb.WatchEvent
	claimer  Claimer
	secrets  map[string][]byte
	changed  chan struct{} // closed and replaced when files or events change
}

var _ plugin.Core = (*Core)(nil)

// NewCore returns a core with fresh folders as its settings; what is logged goes to the test's log.
func NewCore(t testing.TB) *Core {
	t.Helper()
	c := &Core{
		logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{t: t}, DisableTime: true}),
		state:  newState(), settings: folders(t),
		files: make(map[fdpass.Token]*os.File), changed: make(chan struct{}),
	}
	t.Cleanup(c.close)
	return c
}

// Logger implements plugin.Core.
func (c *Core) Logger() hclog.Logger { return c.logger }

// State implements plugin.Core.
func (c *Core) State() plugin.State { return c.state }

// Settings implements plugin.Core.
func (c *Core) Settings() plugin.Settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings
}

// SetSettings replaces the settings.
func (c *Core) SetSettings(s plugin.Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = s
}

// SendFile lets TakeFile find file under the token; the core owns it until then.
func (c *Core) SendFile(token fdpass.Token, file *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[token] = file
	c.signal()
}

// TakeFile implements plugin.Core.
func (c *Core) TakeFile(ctx context.Context, token []byte) (*os.File, error) {
	t, err := fdpass.ParseToken(token)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		file, ok := c.files[t]
		delete(c.files, t)
		changed := c.changed
		c.mu.Unlock()
		if ok {
			return file, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Claimer decides about a claim: what it returns is the driver's answer.
type Claimer func(ctx context.Context, guest *pb.Guest, pid int32, startTime uint64) error

// SetClaimer has claims decided by a function; without one they are refused.
func (c *Core) SetClaimer(claimer Claimer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claimer = claimer
}

// Claim implements plugin.Core.
func (c *Core) Claim(ctx context.Context, guest *pb.Guest, pid int32, startTime uint64) error {
	c.mu.Lock()
	claimer := c.claimer
	c.mu.Unlock()
	if claimer == nil {
		return verr.New(verr.OperationInvalid, "nobody has asked for a claim")
	}
	return claimer(ctx, guest, pid, startTime)
}

// SetSecret lets the driver have a secret.
func (c *Core) SetSecret(uuid string, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secrets == nil {
		c.secrets = map[string][]byte{}
	}
	c.secrets[uuid] = value
}

// Secret implements plugin.Core.
func (c *Core) Secret(_ context.Context, uuid string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.secrets[uuid]
	if !ok {
		return nil, verr.New(verr.OperationDenied, "the driver may not have the secret '%s'", uuid)
	}
	return value, nil
}

// Publish implements plugin.Core: the event is numbered and recorded.
func (c *Core) Publish(event *pb.WatchEvent) {
	e := proto.CloneOf(event)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Time == nil {
		e.Time = timestamppb.Now()
	}
	e.Seq = uint64(len(c.events) + 1)
	c.events = append(c.events, e)
	c.signal()
}

// Events returns what was published so far.
func (c *Core) Events() []*pb.WatchEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// WaitEvents waits until at least n events were published and returns all of them; it fails the test after ten seconds.
func (c *Core) WaitEvents(t testing.TB, n int) []*pb.WatchEvent {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		c.mu.Lock()
		events, changed := slices.Clone(c.events), c.changed
		c.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("%d events were published, expected %d: %v", len(events), n, events)
		}
	}
}

// signal tells who waits; called with the mutex held.
func (c *Core) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Core) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.files {
		_ = f.Close()
	}
}

// state is a plugin.State in memory, with the limits of the real one.
type state struct {
	mu     sync.Mutex // guards values
	values map[string][]byte
}

func newState() *state { return &state{values: make(map[string][]byte)} }

// Get implements plugin.State.
func (s *state) Get(_ context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	return slices.Clone(v), ok, nil
}

// Put implements plugin.State.
func (s *state) Put(_ context.Context, key string, value []byte) error {
	if key == "" || len(key) > maxKey || len(value) > maxValue {
		return verr.New(verr.InvalidArg, "key of %d bytes with a value of %d bytes", len(key), len(value))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = slices.Clone(value)
	return nil
}

// Delete implements plugin.State.
func (s *state) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

// List implements plugin.State.
func (s *state) List(_ context.Context, prefix string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.values {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// testWriter writes to a test's log.
type testWriter struct{ t testing.TB }

// Write implements io.Writer.
func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
