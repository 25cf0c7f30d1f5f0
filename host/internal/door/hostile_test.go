package door

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

func TestBadFramesEndTheConnectionWithoutAnAnswer(t *testing.T) {
	b := newBench(t, Limits{FrameTimeout: 50 * time.Millisecond})
	for _, tc := range []struct {
		name string
		in   []byte
	}{
		{"a web browser", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"zeros", make([]byte, 64)},
		{"ones", []byte("\xff\xff\xff\xff\xff\xff\xff\xff")},
		{"a length that is too short", []byte{0, 0, 0, 27}},
		{"a length that is too long", binary.BigEndian.AppendUint32(nil, 33554437)},
		{"a frame that never ends", []byte{0, 0, 1, 0, 1, 2, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := b.dial(b.path)
			if _, err := c.conn.Write(tc.in); err != nil {
				t.Fatal(err)
			}
			n, err := c.conn.Read(make([]byte, 1))
			if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%d bytes of an answer, error %v", n, err)
			}
		})
	}
	b.open(b.path).must(procConnectGetType, &void{}, nil)
}

func TestRandomPayloadsHurtNobody(t *testing.T) {
	b := newBench(t, Limits{})
	good := b.open(b.path)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, uri := range []string{here, "local:///system", mirrorURI} {
		randomPayloads(rnd, b.openURI(b.path, uri))
	}
	good.must(procConnectGetType, &void{}, nil)
}

// randomPayloads calls every procedure with what is mostly no arguments of it.
func randomPayloads(rnd *rand.Rand, c *raw) {
	for proc := int32(1); proc < int32(len(remoteProcedures)); proc++ {
		if proc == procConnectClose {
			continue
		}
		payload := make([]byte, 4*rnd.IntN(20))
		for i := range payload {
			payload[i] = byte(rnd.Uint32N(3) * rnd.Uint32N(2))
		}
		h := rpc.Header{Program: remoteProgram, Version: 1, Procedure: proc, Serial: uint32(proc)}
		c.frame(h, payload)
		for f := c.recv(); f.Type != rpc.Reply; f = c.recv() {
		}
	}
}

func TestAHalfClosedClientGetsItsAnswers(t *testing.T) {
	b := newBench(t, Limits{})
	d := b.define("guest")
	c := b.open(b.path)
	c.send(procDomainCreate, &libvirt.DomainCreateArgs{Dom: reference(d.View())})
	if err := c.conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if f := c.recv(); f.Status != rpc.OK || f.Procedure != procDomainCreate {
		t.Fatalf("answer %+v", f.Header)
	}
	c.gone()
}

func TestACallGoesOnWhenItsClientLeaves(t *testing.T) {
	b := newBench(t, Limits{})
	gate := make(chan struct{})
	b.driver.gate = gate
	d := b.define("guest")
	c := b.open(b.path)
	c.send(procDomainCreate, &libvirt.DomainCreateArgs{Dom: reference(d.View())})
	<-b.driver.starting
	_ = c.conn.Close()
	sub := b.bus.Subscribe()
	defer sub.Close()
	close(gate)
	for ev := range sub.C() {
		if ev.Domain.GetLifecycle().GetEvent() == 2 {
			return
		}
	}
	t.Fatal("the guest was not started")
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	b := newBench(t, Limits{WriteTimeout: 50 * time.Millisecond})
	c := b.open(b.path)
	h := rpc.Header{Program: remoteProgram, Version: 1, Procedure: procConnectGetType}
	var err error
	for err == nil {
		err = c.w.Send(h, nil)
	}
	c.gone()
}

func TestFiveThousandConnections(t *testing.T) {
	const wanted = 5000
	b := newBench(t, Limits{Clients: 2 * wanted})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range wanted {
		c, err := net.Dial("unix", b.path)
		if err != nil {
			t.Skipf("only %d connections are possible here: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	c := b.open(b.path)
	c.must(procConnectGetType, &void{}, nil)
	if n := b.server.Clients(); n != wanted+1 {
		t.Fatalf("%d clients", n)
	}
}

func TestOneClientTooMany(t *testing.T) {
	b := newBench(t, Limits{Clients: 1})
	first := b.open(b.path)
	b.dial(b.path).gone()
	first.must(procConnectGetType, &void{}, nil)
	first.must(procConnectClose, &void{}, nil)
	first.gone()
}

func TestShutdownLetsCallsBeAnswered(t *testing.T) {
	b := newBench(t, Limits{})
	gate := make(chan struct{})
	b.driver.gate = gate
	d := b.define("guest")
	c, idle := b.open(b.path), b.open(b.path)
	c.send(procDomainCreate, &libvirt.DomainCreateArgs{Dom: reference(d.View())})
	<-b.driver.starting
	done := make(chan error, 1)
	go func() { done <- b.server.Shutdown(context.Background()) }()
	idle.gone()
	close(gate)
	if f := c.recv(); f.Status != rpc.OK {
		t.Fatalf("answer %+v", f.Header)
	}
	c.gone()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", b.path); err == nil {
		t.Fatal("the socket still listens")
	}
}

func TestShutdownInAHurryDoesNotWaitForCalls(t *testing.T) {
	b := newBench(t, Limits{})
	gate := make(chan struct{})
	b.driver.gate = gate
	defer close(gate)
	d := b.define("guest")
	c := b.open(b.path)
	c.send(procDomainCreate, &libvirt.DomainCreateArgs{Dom: reference(d.View())})
	<-b.driver.starting
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	c.gone()
}

func TestPolicy(t *testing.T) {
	me := Peer{UID: uint32(os.Geteuid())}
	stranger := Peer{UID: me.UID + 4711}
	for _, tc := range []struct {
		name     string
		peer     Peer
		readOnly bool
		want     bool
	}{
		{"root may change", Peer{UID: 0}, false, true},
		{"the daemon's user may change", me, false, true},
		{"a stranger may not change", stranger, false, false},
		{"a stranger may look", stranger, true, true},
	} {
		if got := DefaultPolicy(tc.peer, tc.readOnly) == nil; got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestARefusedPeerIsDisconnected(t *testing.T) {
	asked := make(chan Peer, 1)
	b := newBenchFor(t, Limits{}, func(p Peer, _ bool) error {
		asked <- p
		return errors.New("no")
	})
	c := b.dial(b.path)
	if _, err := c.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("error %v", err)
	}
	if p := <-asked; int(p.PID) != os.Getpid() {
		t.Fatalf("peer %+v", p)
	}
}
