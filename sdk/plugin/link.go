package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/internal/watch"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// reconnect is how the plugin looks for a core that is away: a restarted core shall be found within a fraction of a second.
// ClientConn.ResetConnectBackoff would find it sooner, but iterates over a map that a concurrent connect writes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.3, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
	MinConnectTimeout: 2 * time.Second,
}

// link is the Core that talks to the real one. It owns the connection to the core, the log's pump, the files in transit and the
// events; close ends them all.
type link struct {
	conn  *grpc.ClientConn
	files *fdpass.Receiver
	feed  *watch.Feed
	log   *logPump
	state store
	locks corev1.LockServiceClient
	vault corev1.SecretServiceClient

	mu       sync.Mutex // guards settings
	settings Settings
}

var _ Core = (*link)(nil)

// connect makes a link in the plugin's private folder. The core need not be there yet.
func connect(name, dir string) (*link, error) {
	socket := filepath.Join(dir, handshake.CoreSocket)
	conn, err := grpc.NewClient("passthrough:core",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(reconnect),
		grpc.WithIdleTimeout(0), // its state tells whether there is a core
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(handshake.MaxMessage), grpc.MaxCallSendMsgSize(handshake.MaxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to the core: %w", err)
	}
	files, err := fdpass.Listen(filepath.Join(dir, handshake.FilesSocket))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &link{
		conn: conn, files: files, feed: watch.NewFeed(),
		log:   newLogPump(name, corev1.NewLogServiceClient(conn)),
		state: store{client: corev1.NewStateServiceClient(conn)},
		locks: corev1.NewLockServiceClient(conn),
		vault: corev1.NewSecretServiceClient(conn),
	}, nil
}

// close ends the link. Lines of the log that are still waiting get a moment to reach the core.
func (l *link) close() {
	l.log.close()
	_ = l.files.Close()
	_ = l.conn.Close()
}

// Logger implements Core.
func (l *link) Logger() hclog.Logger { return l.log.logger }

// State implements Core.
func (l *link) State() State { return l.state }

// TakeFile implements Core.
func (l *link) TakeFile(ctx context.Context, token []byte) (*os.File, error) {
	t, err := fdpass.ParseToken(token)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fileWait)
	defer cancel()
	f, err := l.files.Take(ctx, t)
	if err != nil {
		return nil, verr.New(verr.OperationFailed, "descriptor did not arrive from the core: %w", err)
	}
	return f, nil
}

// fileWait is how long a descriptor may take after the call that names it: the core sends it before.
const fileWait = 5 * time.Second

// Publish implements Core.
func (l *link) Publish(event *pb.WatchEvent) { l.feed.Publish(event) }

// Claim implements Core.
func (l *link) Claim(ctx context.Context, guest *pb.Guest, pid int32, startTime uint64) error {
	_, err := ask(ctx, corev1.LockService_Claim_FullMethodName, l.locks.Claim, &corev1.ClaimRequest{
		Connection: guest.GetConnection(), Uuid: guest.GetUuid(), Generation: guest.GetGeneration(), Pid: pid, StartTime: startTime,
	})
	return err
}

// Secret implements Core.
func (l *link) Secret(ctx context.Context, uuid string) ([]byte, error) {
	rsp, err := ask(ctx, corev1.SecretService_Value_FullMethodName, l.vault.Value, &corev1.ValueRequest{Uuid: uuid})
	return rsp.GetValue(), err
}

// Settings implements Core.
func (l *link) Settings() Settings {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings
}

func (l *link) setSettings(s Settings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settings = s
}
