// Package vimtest runs a vSphere endpoint for tests: govmomi's simulator of an ESX host or of a vCenter server, behind a certificate of
// its own and behind a gate that can stall, cut and delay every connection, or spoil answers.
//
// A Server belongs to the test that started it and ends with it. The test changes the inventory through methods that go beside the
// gate, so that things can happen while nobody who goes through the gate can see them. Methods are safe concurrently and end the
// test when the simulator refuses.
//
// What the simulator lacks and the driver needs is added: the HostAutoStartManager, to which the simulator's hosts only refer; updates that
// tell of a new size; refusal of names that are taken, of sizes, datastores and networks that there are not; snapshots that bring the
// configuration back; a HostNetworkSystem that keeps what it is told; questions of machines, migration, screens; and tasks that never end.
package vimtest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
)

// User and Password are the only ones that a Server lets in.
const (
	User     = "root"
	Password = "open sesame"
)

// callTimeout bounds each call of the test's own.
const callTimeout = 20 * time.Second

// Options say what is simulated. The zero value is an ESX host with two virtual machines, both on.
type Options struct {
	// VPX makes it a vCenter server with one datacenter, one host outside of clusters and one cluster.
	VPX bool
	// Machines is the number of virtual machines (for VPX: in each resource pool), 0 for 2.
	Machines int
	// Peer makes it good enough for libvirt's own ESX driver too.
	Peer bool
	// Expired gives the server a certificate that expired yesterday.
	Expired bool
}

// Server is a simulated endpoint.
type Server struct {
	// Gate stands before every connection to Address.
	Gate *Gate
	// Spoiler spoils answers.
	Spoiler *Spoiler
	// PEM is the server's certificate.
	PEM []byte

	t     testing.TB
	front *httptest.Server
	model *simulator.Model
	admin *govmomi.Client
	cert  tls.Certificate
	extra *Extension
}

// Start runs a simulator until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	model := simulator.ESX()
	if o.VPX {
		model = simulator.VPX()
	}
	if o.Machines != 0 {
		model.Machine = o.Machines
	}
	if err := model.Create(); err != nil {
		t.Fatalf("create model: %v", err)
	}
	t.Cleanup(model.Remove)
	extra := Extend(model)
	model.Service.Listen = &url.URL{User: url.UserPassword(User, Password)}
	back := model.Service.NewServer()
	t.Cleanup(back.Close)
	model.Service.ServeMux.HandleFunc("/screen", Screen)

	s := &Server{t: t, Gate: newGate(), model: model, extra: extra}
	s.Spoiler = &Spoiler{next: model.Service.ServeMux}
	if o.Peer {
		if err := peer.Prepare(model); err != nil {
			t.Fatalf("prepare model: %v", err)
		}
		s.Spoiler.next = peer.Handler(model.Service.ServeMux)
	}
	s.cert, s.PEM = newCertificate(t, o.Expired)
	s.listen()
	s.login(back.URL)
	return s
}

// listen opens the way through the gate.
func (s *Server) listen() {
	s.front = httptest.NewUnstartedServer(s.Spoiler)
	s.front.Listener = s.Gate.guard(s.front.Listener)
	s.front.Config.ErrorLog = discard()
	s.front.TLS = &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12}
	s.front.StartTLS()
	s.t.Cleanup(func() {
		s.Gate.Cut()
		s.front.Close()
	})
}

// login connects the test itself, beside the gate.
func (s *Server) login(to *url.URL) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	admin, err := govmomi.NewClient(ctx, to, true)
	if err != nil {
		s.t.Fatalf("log in beside the gate: %v", err)
	}
	s.admin = admin
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		if err := admin.Logout(ctx); err != nil {
			s.t.Errorf("log out beside the gate: %v", err)
		}
		admin.CloseIdleConnections()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
}

// Address is host and port of the way through the gate.
func (s *Server) Address() string { return s.front.Listener.Addr().String() }

// ExpireSessions ends every session but the test's own, as time would.
func (s *Server) ExpireSessions() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	own, err := s.admin.SessionManager.UserSession(ctx)
	if err != nil {
		s.t.Fatalf("read own session: %v", err)
	}
	for _, key := range s.sessions(ctx) {
		if key == own.Key {
			continue
		}
		if err := s.admin.SessionManager.TerminateSession(ctx, []string{key}); err != nil {
			s.t.Fatalf("terminate session: %v", err)
		}
	}
}

// Sessions counts the sessions besides the test's own.
func (s *Server) Sessions() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return len(s.sessions(ctx)) - 1
}

func (s *Server) sessions(ctx context.Context) []string {
	var manager mo.SessionManager
	ref := *s.admin.ServiceContent.SessionManager
	if err := s.admin.RetrieveOne(ctx, ref, []string{"sessionList"}, &manager); err != nil {
		s.t.Fatalf("list sessions: %v", err)
	}
	keys := make([]string, 0, len(manager.SessionList))
	for _, session := range manager.SessionList {
		keys = append(keys, session.Key)
	}
	return keys
}

// DeadAddress returns an address on this machine that nobody listens on.
func DeadAddress(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
