package door

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

type unixDialer string

func (p unixDialer) Dial() (net.Conn, error) { return net.Dial("unix", string(p)) }

// console opens the console of a running guest and returns the header of the stream's frames.
func console(t *testing.T, b *bench) (*raw, rpc.Header) {
	t.Helper()
	d := b.define("guest")
	if err := d.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	c := b.open(b.path)
	h := c.send(procDomainOpenConsole, &libvirt.DomainOpenConsoleArgs{Dom: reference(d.View())})
	if f := c.recv(); f.Header != h.Answer(rpc.OK) {
		t.Fatalf("open: %+v: %v", f.Header, c.decode(f, nil))
	}
	h.Type, h.Status = rpc.Stream, rpc.Continue
	return c, h
}

func with(h rpc.Header, s rpc.Status) rpc.Header {
	h.Status = s
	return h
}

func TestConsoleCarriesBothWays(t *testing.T) {
	b := newBench(t, Limits{})
	c, h := console(t, b)
	for _, size := range []int{1, 5, 300_000} {
		sent := bytes.Repeat([]byte("x"), size)
		c.frame(h, sent)
		var got []byte
		for len(got) < size {
			f := c.recv()
			if f.Header != h || len(f.Payload) > 262120 {
				t.Fatalf("frame %+v of %d bytes", f.Header, len(f.Payload))
			}
			got = append(got, f.Payload...)
		}
		if !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back changed", size)
		}
	}
	c.must(procConnectGetType, &void{}, nil)
}

func TestEndsOfAStream(t *testing.T) {
	for _, tc := range []struct {
		name string
		// say is what the client sends; want are the statuses of the frames that it gets.
		say  []rpc.Status
		data string
		want []rpc.Status
	}{
		{"the device ends and the client agrees", []rpc.Status{rpc.Continue, rpc.OK}, "bye", []rpc.Status{rpc.Continue, rpc.OK}},
		{"the client ends", []rpc.Status{rpc.OK}, "", []rpc.Status{rpc.OK}},
		{"the client aborts", []rpc.Status{rpc.Failed}, "", []rpc.Status{rpc.OK}},
		{"the device fails", []rpc.Status{rpc.Continue}, "crash", []rpc.Status{rpc.Failed}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, Limits{})
			c, h := console(t, b)
			want := tc.want
			for _, status := range tc.say {
				data := ""
				if status == rpc.Continue {
					data = tc.data
				}
				c.frame(with(h, status), []byte(data))
				f := c.recv()
				if f.Header != with(h, want[0]) {
					t.Fatalf("got %+v, want status %d", f.Header, want[0])
				}
				if f.Status == rpc.Continue && len(f.Payload) != 0 {
					t.Fatalf("the end carries %q", f.Payload)
				}
				if e := c.decode(f, nil); e != nil && !strings.Contains(*e.Message, "on fire") {
					t.Fatalf("error %q", *e.Message)
				}
				want = want[1:]
			}
			c.frame(h, []byte("late"))
			c.must(procConnectGetType, &void{}, nil)
		})
	}
}

func TestAHoleInAConsoleEndsTheConnection(t *testing.T) {
	b := newBench(t, Limits{})
	c, h := console(t, b)
	h.Type = rpc.StreamHole
	c.frame(h, make([]byte, 12))
	c.gone()
}

func TestConsoleOfAnInactiveDomain(t *testing.T) {
	b := newBench(t, Limits{})
	d := b.define("guest")
	c := b.open(b.path)
	args := &libvirt.DomainOpenConsoleArgs{Dom: reference(d.View())}
	if e := c.call(procDomainOpenConsole, args, nil); e == nil || e.Code != 55 {
		t.Fatalf("error %+v", e)
	}
}

func TestStreamsAreLimited(t *testing.T) {
	b := newBench(t, Limits{Streams: 1})
	c, h := console(t, b)
	d, err := b.domains.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	args := &libvirt.DomainOpenConsoleArgs{Dom: reference(d.View())}
	if e := c.call(procDomainOpenConsole, args, nil); e == nil || e.Code != 9 {
		t.Fatalf("error %+v", e)
	}
	c.frame(with(h, rpc.Failed), nil)
	if f := c.recv(); f.Header != with(h, rpc.OK) {
		t.Fatalf("abort: %+v", f.Header)
	}
	c.must(procDomainOpenConsole, args, nil)
}
