package faketest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience is how long the plugin may take for what the harness itself asks of it.
const patience = 10 * time.Second

// Host is a core around one plugin.
type Host struct {
	// Conn is the core's connection to the plugin, which is described and configured.
	Conn *grpc.ClientConn
	// Description is what the plugin said of itself.
	Description *basev1.DescribeResponse
	// Settings are the folders that the plugin was configured with.
	Settings plugin.Settings
	// Process is the plugin's, if it was launched as one and is there.
	Process *os.Process

	dir   string
	state *state
	// end ends the plugin that is served, and its connection; nil if none is.
	end func()
	// gone is closed when Process has ended.
	gone chan struct{}

	mu     sync.Mutex // guards all below
	core   *grpc.Server
	claims Claimer
	// secrets are those that the driver may have.
	secrets map[string][]byte
	log     []*corev1.WriteRequest
	logged  chan struct{} // closed and replaced with each line
}

// Client serves a plugin and returns the core's connection to it; both end with the test.
func Client(t testing.TB, p plugin.Plugin) *grpc.ClientConn {
	t.Helper()
	return Start(t, p).Conn
}

// Start serves a plugin within a core of its own, describes and configures it.
func Start(t testing.TB, p plugin.Plugin) *Host {
	t.Helper()
	return StartWith(t, p, nil)
}

// StartWith is Start with the plugin's own configuration as a JSON object, for a plugin that does without none.
func StartWith(t testing.TB, p plugin.Plugin, config []byte) *Host {
	t.Helper()
	h := newHost(t)
	h.Restart(t, p, config)
	return h
}

// newHost makes a core without a plugin. What plugin it has by then ends with the test.
func newHost(t testing.TB) *Host {
	t.Helper()
	h := &Host{dir: shortDir(t), state: newState(), Settings: folders(t), logged: make(chan struct{})}
	h.RestartCore(t)
	t.Cleanup(h.stopCore)
	t.Cleanup(h.Stop)
	return h
}

// Restart serves another plugin in the place of the one that there was, which is ended first, with the same folders and state: what
// a core does that starts a plugin again.
func (h *Host) Restart(t testing.TB, p plugin.Plugin, config []byte) {
	t.Helper()
	h.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- plugin.Run(ctx, p, h.dir) }()
	h.end = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve plugin %q: %v", p.Name, err)
		}
	}
	h.dial(t, ended)
	h.Configure(t, config)
}

// Stop ends the plugin in an orderly way, and leaves the core without one.
func (h *Host) Stop() {
	if h.end != nil {
		h.end()
		h.end = nil
	}
}

// Configure sends the plugin its settings again, with its own configuration as a JSON object or nil.
func (h *Host) Configure(t testing.TB, config []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := h.Settings
	_, err := basev1.NewPluginServiceClient(h.Conn).Configure(ctx, &basev1.ConfigureRequest{
		ConfigJson: config, RuntimeDir: s.RuntimeDir, StateDir: s.StateDir, LogDir: s.LogDir, LogLevel: "debug",
	})
	if err != nil {
		t.Fatalf("configure plugin: %v", err)
	}
}

// SendFile sends a duplicate of file to the plugin and returns the token to name it by.
func (h *Host) SendFile(t testing.TB, file *os.File) []byte {
	t.Helper()
	var token fdpass.Token
	_, _ = rand.Read(token[:]) // never fails
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := fdpass.Send(ctx, filepath.Join(h.dir, handshake.FilesSocket), token, file); err != nil {
		t.Fatalf("send file to plugin: %v", err)
	}
	return token[:]
}

// Log returns the lines of the plugin's log so far.
func (h *Host) Log() []*corev1.WriteRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.log)
}

// WaitLog waits for a line of the plugin's log that matches; it fails the test when none comes.
func (h *Host) WaitLog(t testing.TB, match func(*corev1.WriteRequest) bool) *corev1.WriteRequest {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		h.mu.Lock()
		lines, logged := slices.Clone(h.log), h.logged
		h.mu.Unlock()
		if i := slices.IndexFunc(lines, match); i >= 0 {
			return lines[i]
		}
		select {
		case <-logged:
		case <-limit.C:
			t.Fatalf("no such line in the log: %v", lines)
		}
	}
}

// StopCore takes the core's services away, as a crash of the core does; the connection to the plugin stays.
func (h *Host) StopCore() { h.stopCore() }

// RestartCore brings the core's services up, as a start of the core does. State and log are kept.
func (h *Host) RestartCore(t testing.TB) {
	t.Helper()
	h.stopCore()
	path := filepath.Join(h.dir, handshake.CoreSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(handshake.MaxMessage))
	corev1.RegisterStateServiceServer(server, stateService{state: h.state})
	corev1.RegisterLogServiceServer(server, logService{host: h})
	corev1.RegisterLockServiceServer(server, lockService{host: h})
	corev1.RegisterSecretServiceServer(server, secretService{host: h})
	h.mu.Lock()
	h.core = server
	h.mu.Unlock()
	go func() { _ = server.Serve(l) }() // ends with Stop
}

func (h *Host) stopCore() {
	h.mu.Lock()
	server := h.core
	h.core = nil
	h.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// dial connects to the plugin and asks for its description.
func (h *Host) dial(t testing.TB, ended chan error) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(h.dir, handshake.PluginSocket),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The socket is there a moment before it listens. A connection that is slow to come about is not given up for that.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Millisecond, MaxDelay: 100 * time.Millisecond, Multiplier: 2},
			MinConnectTimeout: patience,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(handshake.MaxMessage), grpc.MaxCallSendMsgSize(handshake.MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	end := h.end
	h.end = func() {
		_ = conn.Close()
		end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { // a plugin that does not even start is told at once
		select {
		case err := <-ended:
			ended <- err
			cancel()
		case <-ctx.Done():
		}
	}()
	h.awaitSocket(ctx)
	h.Conn = conn
	h.Description, err = basev1.NewPluginServiceClient(conn).Describe(ctx, &basev1.DescribeRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("describe plugin: %v", err)
	}
}

// awaitSocket waits for the plugin's socket, which saves gRPC's first back-off of a second.
func (h *Host) awaitSocket(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(h.dir, handshake.PluginSocket)); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stateService serves a state as the core does.
type stateService struct {
	corev1.UnsafeStateServiceServer
	state *state
}

// Put stores a value.
func (s stateService) Put(ctx context.Context, req *corev1.PutRequest) (*corev1.PutResponse, error) {
	return &corev1.PutResponse{}, s.state.Put(ctx, req.GetKey(), req.GetValue())
}

// Get reads a value.
func (s stateService) Get(ctx context.Context, req *corev1.GetRequest) (*corev1.GetResponse, error) {
	v, ok, err := s.state.Get(ctx, req.GetKey())
	return &corev1.GetResponse{Found: ok, Value: v}, err
}

// Delete removes a value.
func (s stateService) Delete(ctx context.Context, req *corev1.DeleteRequest) (*corev1.DeleteResponse, error) {
	return &corev1.DeleteResponse{}, s.state.Delete(ctx, req.GetKey())
}

// List returns keys.
func (s stateService) List(ctx context.Context, req *corev1.ListRequest) (*corev1.ListResponse, error) {
	keys, err := s.state.List(ctx, req.GetPrefix())
	return &corev1.ListResponse{Keys: keys}, err
}

// SetClaimer has claims decided by a function; without one they are refused.
func (h *Host) SetClaimer(claimer Claimer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claims = claimer
}

// lockService has claims decided.
type lockService struct {
	corev1.UnsafeLockServiceServer
	host *Host
}

// Claim asks the test's function.
func (l lockService) Claim(ctx context.Context, req *corev1.ClaimRequest) (*corev1.ClaimResponse, error) {
	l.host.mu.Lock()
	claimer := l.host.claims
	l.host.mu.Unlock()
	if claimer == nil {
		return nil, verr.Status(verr.New(verr.OperationInvalid, "nobody has asked for a claim"))
	}
	guest := &pb.Guest{Connection: req.GetConnection(), Uuid: req.GetUuid(), Generation: req.GetGeneration()}
	return &corev1.ClaimResponse{}, verr.Status(claimer(ctx, guest, req.GetPid(), req.GetStartTime()))
}

// SetSecret lets the driver have a secret.
func (h *Host) SetSecret(uuid string, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.secrets == nil {
		h.secrets = map[string][]byte{}
	}
	h.secrets[uuid] = value
}

// secretService hands out secrets.
type secretService struct {
	corev1.UnsafeSecretServiceServer
	host *Host
}

// Value returns one that the test has set.
func (s secretService) Value(_ context.Context, req *corev1.ValueRequest) (*corev1.ValueResponse, error) {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	value, ok := s.host.secrets[req.GetUuid()]
	if !ok {
		return nil, verr.Status(verr.New(verr.OperationDenied, "the driver may not have the secret '%s'", req.GetUuid()))
	}
	return &corev1.ValueResponse{Value: value}, nil
}

// logService records lines.
type logService struct {
	corev1.UnsafeLogServiceServer
	host *Host
}

// Write takes lines until the plugin closes the stream.
func (l logService) Write(stream grpc.ClientStreamingServer[corev1.WriteRequest, corev1.WriteResponse]) error {
	for {
		line, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&corev1.WriteResponse{})
		}
		if err != nil {
			return err
		}
		l.host.mu.Lock()
		l.host.log = append(l.host.log, line)
		close(l.host.logged)
		l.host.logged = make(chan struct{})
		l.host.mu.Unlock()
	}
}

// folders makes the folders of a plugin's settings.
func folders(t testing.TB) plugin.Settings {
	t.Helper()
	base := shortDir(t)
	s := plugin.Settings{
		RuntimeDir: filepath.Join(base, "run"), StateDir: filepath.Join(base, "state"), LogDir: filepath.Join(base, "log"),
	}
	for _, dir := range []string{s.RuntimeDir, s.StateDir, s.LogDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// shortDir makes a folder whose path leaves room for sockets, which a test's own folder may not.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
