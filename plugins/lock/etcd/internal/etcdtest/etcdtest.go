// Package etcdtest runs real etcd servers for tests: clusters of one or several members on the loopback interface, with data in folders
// of the test's own, whose members can be stopped, killed, and started again. Everything ends with the test. Where there is no etcd
// the test is skipped, and says so.
package etcdtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience is how long a member may take to come up, or to elect a leader, on a machine that does much else.
const patience = 30 * time.Second

// Member is one server.
type Member struct {
	// URL is where clients find it.
	URL string

	t    testing.TB
	args []string
	log  string
	cmd  *exec.Cmd
}

// Cluster is some members.
type Cluster struct {
	t       testing.TB
	tls     *tls.Config
	Members []*Member
}

// Option changes how all members are started.
type Option func(*options)

type options struct {
	scheme string
	args   []string
	tls    *tls.Config
}

// Encrypted has clients connect with TLS, and show certificates: of the members, in PEM files, and of the test's own client.
func Encrypted(ca, cert, key string, client *tls.Config) Option {
	return func(o *options) {
		o.scheme, o.tls = "https", client
		o.args = append(o.args, "--client-cert-auth", "--trusted-ca-file", ca, "--cert-file", cert, "--key-file", key)
	}
}

// Start starts a cluster and waits until it works.
func Start(t testing.TB, members int, change ...Option) *Cluster {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is not installed (Debian: etcd-server), so nothing is tested against it")
	}
	// Ports are free when they are looked for, and may be taken a moment later.
	const tries = 5
	for try := 1; ; try++ {
		o := options{scheme: "http"}
		for _, f := range change {
			f(&o)
		}
		c := &Cluster{t: t, tls: o.tls}
		if err = c.start(program, members, o); err == nil {
			return c
		}
		for _, m := range c.Members {
			m.Kill()
		}
		if try == tries {
			t.Fatalf("start etcd: %v", err)
		}
	}
}

func (c *Cluster) start(program string, members int, o options) error {
	dir := c.t.TempDir()
	ports, err := freePorts(2 * members)
	if err != nil {
		return err
	}
	var initial []string
	for i := range members {
		initial = append(initial, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, ports[2*i+1]))
	}
	for i := range members {
		client := fmt.Sprintf("%s://127.0.0.1:%d", o.scheme, ports[2*i])
		peer := fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])
		name := fmt.Sprintf("m%d", i)
		args := []string{
			program, "--name", name, "--data-dir", filepath.Join(dir, name), "--log-level", "warn",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			// Short, so that a new leader is found and a lease of two seconds is possible.
			"--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync",
		}
		if !supports(program, "unsafe-no-fsync") {
			args = args[:len(args)-1]
		}
		args = append(args, o.args...)
		m := &Member{URL: client, t: c.t, args: args, log: filepath.Join(dir, name+".log")}
		c.Members = append(c.Members, m)
		if err := m.start(); err != nil {
			return err
		}
		c.t.Cleanup(m.Kill)
	}
	return c.AwaitReady()
}

// supports says whether etcd knows a flag.
func supports(program, flag string) bool {
	help, _ := exec.CommandContext(context.Background(), program, "--help").CombinedOutput()
	return bytes.Contains(help, []byte(flag))
}

func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func (m *Member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	m.cmd = exec.CommandContext(context.Background(), m.args[0], m.args[1:]...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	// A test that is killed must not leave servers behind.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.cmd.Start()
}

// Start starts a member that was killed.
func (m *Member) Start() {
	m.t.Helper()
	if err := m.start(); err != nil {
		m.t.Fatalf("start etcd again: %v", err)
	}
}

// Kill ends a member as a crash does. One that is not there is left alone.
func (m *Member) Kill() {
	if m.cmd == nil || m.cmd.Process == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
}

// Pause stops a member where it stands: its connections stay open, and nothing answers.
func (m *Member) Pause() { m.signal(syscall.SIGSTOP) }

// Resume lets a member go on.
func (m *Member) Resume() { m.signal(syscall.SIGCONT) }

func (m *Member) signal(s os.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatalf("signal etcd: %v", err)
	}
}

// AwaitReady waits until the cluster answers, and each member that runs knows the leader.
func (c *Cluster) AwaitReady() error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	limit := time.Now().Add(patience)
	for {
		if err = c.ready(client); err == nil {
			return nil
		}
		for _, m := range c.Members {
			if m.cmd != nil && m.ended() {
				text, _ := os.ReadFile(m.log)
				return fmt.Errorf("etcd ended: %s", text)
			}
		}
		if time.Now().After(limit) {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *Cluster) ready(client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, m := range c.Members {
		if m.cmd == nil {
			continue
		}
		if st, err := client.Status(ctx, m.URL); err != nil || st.Leader == 0 {
			return errors.Join(fmt.Errorf("member at %s is not ready", m.URL), err)
		}
	}
	_, err := client.Get(ctx, "/")
	return err
}

// ended says whether the process is gone, without waiting for it.
func (m *Member) ended() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// Endpoints are the members' URLs.
func (c *Cluster) Endpoints() []string {
	urls := make([]string, len(c.Members))
	for i, m := range c.Members {
		urls[i] = m.URL
	}
	return urls
}

// Leader returns the member that leads.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	client := c.Client()
	limit := time.Now().Add(patience)
	for time.Now().Before(limit) {
		for _, m := range c.Members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := client.Status(ctx, m.URL)
			cancel()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.GetMemberId() {
				return m
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.t.Fatal("etcd has no leader")
	return nil
}

// Client is a connection of the test's own, for looking at what there is.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	client, err := c.dial()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			c.t.Error(err)
		}
	})
	return client
}

func (c *Cluster) dial() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: c.tls, DialTimeout: patience, Logger: zap.NewNop()})
}
