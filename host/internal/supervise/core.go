package supervise

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/peer"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
)

const (
	// maxStreams bounds the calls of one plugin to the core at a time.
	maxStreams = 256
	// logRate and logBurst bound the lines per second that a plugin may log; the rest are counted and dropped.
	logRate  = 2000
	logBurst = 8000
)

// coreSocket serves the core to one plugin.
type coreSocket struct {
	server *grpc.Server
	done   chan struct{}
}

// serveCore listens on the plugin's own socket and lets in only the plugin's process.
func (p *Plugin) serveCore(path string) (*coreSocket, error) {
	if err := handshake.CheckDir(parent(path)); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket %q: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // a successor may listen there already
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(handshake.MaxMessage), grpc.MaxSendMsgSize(handshake.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams))
	corev1.RegisterLogServiceServer(server, &logService{log: p.cfg.Log, name: p.Name()})
	if p.cfg.Core != nil {
		p.cfg.Core(server)
	}
	c := &coreSocket{server: server, done: make(chan struct{})}
	allowed := func(cred peer.Credentials) bool { return cred.PID != 0 && int64(cred.PID) == p.pid.Load() }
	go func() {
		defer close(c.done)
		_ = server.Serve(peer.Listener{Listener: l, Allow: allowed}) // ends with Stop
	}()
	return c, nil
}

func (c *coreSocket) stop() {
	c.server.Stop()
	<-c.done
}

// logService writes a plugin's lines to the core's log.
type logService struct {
	corev1.UnsafeLogServiceServer
	log  hclog.Logger
	name string

	mu    sync.Mutex // guards meter
	meter meter
}

// Write takes lines until the plugin closes the stream.
func (l *logService) Write(stream grpc.ClientStreamingServer[corev1.WriteRequest, corev1.WriteResponse]) error {
	for {
		line, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&corev1.WriteResponse{})
		}
		if err != nil {
			return err
		}
		if line.GetDropped() > 0 {
			l.log.Warn("lines of a plugin's log were lost", "plugin", l.name, "lines", line.GetDropped())
		}
		l.mu.Lock()
		ok, before := l.meter.take(time.Now())
		l.mu.Unlock()
		if !ok {
			continue
		}
		if before > 0 {
			l.log.Warn("plugin logs too much, lines were left out", "plugin", l.name, "lines", before)
		}
		l.write(line)
	}
}

func (l *logService) write(line *corev1.WriteRequest) {
	level := hclog.LevelFromString(line.GetLevel())
	if level == hclog.NoLevel || level < l.log.GetLevel() {
		return
	}
	args := make([]any, 0, 2*len(line.GetFields())+2)
	args = append(args, "plugin", line.GetLogger())
	for k, v := range line.GetFields() {
		args = append(args, k, v)
	}
	l.log.Log(level, line.GetMessage(), args...)
}

// meter lets logRate lines a second through, and logBurst at once.
type meter struct {
	tokens  float64
	last    time.Time
	omitted int
}

// take reports whether a line may pass, and how many did not before it.
func (m *meter) take(now time.Time) (ok bool, omitted int) {
	if m.last.IsZero() {
		m.tokens = logBurst
	} else {
		m.tokens = min(logBurst, m.tokens+logRate*now.Sub(m.last).Seconds())
	}
	m.last = now
	if m.tokens < 1 {
		m.omitted++
		return false, 0
	}
	m.tokens--
	omitted, m.omitted = m.omitted, 0
	return true, omitted
}
