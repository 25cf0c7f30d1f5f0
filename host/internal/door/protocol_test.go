package door

import (
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

func TestStockClientConnects(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.dial(b.path)
	var auth libvirt.AuthListRet
	c.must(procAuthList, &void{}, &auth)
	if len(auth.Types) != 1 || auth.Types[0] != 0 {
		t.Fatalf("auth types %v, want none alone", auth.Types)
	}
	var feature libvirt.ConnectSupportsFeatureRet
	c.must(procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}, &feature)
	if feature.Supported != 1 {
		t.Fatal("no keepalive")
	}
	c.must(procConnectOpen, openArgs("test:///default"), nil)
	for number, want := range map[int32]int32{9: 1, 14: 1, 15: 1, 16: 1, 2: 0, 4: 0, 8: 0, 13: 0, 99: 0} {
		c.must(procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: number}, &feature)
		if feature.Supported != want {
			t.Errorf("feature %d is %d, want %d", number, feature.Supported, want)
		}
	}
	c.must(procConnectRegisterCloseCallback, &void{}, nil)
	var uri libvirt.ConnectGetUriRet
	if c.must(procConnectGetUri, &void{}, &uri); uri.Uri != "test:///default" {
		t.Fatalf("uri %q", uri.Uri)
	}
	c.must(procConnectUnregisterCloseCallback, &void{}, nil)
	h := c.send(procConnectClose, &void{})
	if f := c.recv(); f.Header != h.Answer(rpc.OK) || len(f.Payload) != 0 {
		t.Fatalf("reply to close: %+v with %d bytes", f.Header, len(f.Payload))
	}
	c.gone()
}

func TestRefusalsHaveLibvirtsCodes(t *testing.T) {
	b := newBench(t, Limits{})
	b.define("guest")
	call := func(program, version uint32, proc int32, status rpc.Status) rpc.Header {
		return rpc.Header{Program: program, Version: version, Procedure: proc, Status: status, Serial: 42}
	}
	for _, tc := range []struct {
		name         string
		path         string
		opened       bool
		header       rpc.Header
		args         any
		code, domain int32
		message      string
	}{
		{"an unknown program", b.path, true, call(1, 1, 1, 0), nil, 39, 7, ""},
		{"an unknown version", b.path, true, call(remoteProgram, 2, 1, 0), nil, 39, 7, ""},
		{"procedure 0", b.path, true, call(remoteProgram, 1, 0, 0), nil, 39, 7, "unknown procedure"},
		{"a negative procedure", b.path, true, call(remoteProgram, 1, -1, 0), nil, 39, 7, "unknown procedure"},
		{"a procedure of a newer libvirt", b.path, true, call(remoteProgram, 1, 444, 0), nil, 39, 7, "unknown procedure"},
		{"an event as a call", b.path, true, call(remoteProgram, 1, 318, 0), nil, 39, 7, "unknown procedure"},
		{"a call with a status", b.path, true, call(remoteProgram, 1, procConnectGetType, 1), nil, 39, 7, ""},
		{"arguments that are short", b.path, true, call(remoteProgram, 1, procDomainLookupByName, 0), nil, 39, 7, ""},
		{"a driver's call before open", b.path, false, call(remoteProgram, 1, procConnectGetType, 0), nil, 1, 7, "internal error: connection not open"},
		{"a driver's feature before open", b.path, false, call(remoteProgram, 1, procConnectSupportsFeature, 0), &libvirt.ConnectSupportsFeatureArgs{Feature: 9}, 1, 7, ""},
		{"a second open", b.path, true, call(remoteProgram, 1, procConnectOpen, 0), openArgs("test:///default"), 1, 7, ""},
		{"an open without a name", b.path, false, call(remoteProgram, 1, procConnectOpen, 0), &openRequest{}, 1, 7, ""},
		{"an open of an unknown scheme", b.path, false, call(remoteProgram, 1, procConnectOpen, 0), openArgs("foo:///bar"), 5, 0, "no connection driver available for "},
		{"polkit where there is none", b.path, false, call(remoteProgram, 1, procAuthPolkit, 0), nil, 45, 7, ""},
		{"what is known and not supported", b.path, true, call(remoteProgram, 1, procNetworkCreate, 0), nil, 3, 19, "this function is not supported by the connection driver: "},
		{"a monitor command of qemu's", b.path, true, call(qemuProgram, 1, 1, 0), nil, 3, 20, ""},
		{"a change over the read-only socket", b.ro, true, call(remoteProgram, 1, procDomainDestroy, 0), nil, 29, 20, "operation forbidden: "},
		{"a snapshot over the read-only socket", b.ro, true, call(remoteProgram, 1, procDomainSnapshotCreateXml, 0), nil, 29, 35, ""},
		{"lxc over the read-only socket", b.ro, true, call(lxcProgram, 1, 1, 0), nil, 29, 20, ""},
		{"secrets over the read-only socket", b.ro, true, call(remoteProgram, 1, procDomainGetXmlDesc, 0), &libvirt.DomainGetXMLDescArgs{Flags: 1}, 29, 12, ""},
		{"unknown flags", b.path, true, call(remoteProgram, 1, procDomainGetXmlDesc, 0), &libvirt.DomainGetXMLDescArgs{Flags: 64}, 8, 12, "invalid argument: "},
		{"a domain that is not there", b.path, true, call(remoteProgram, 1, procDomainLookupByName, 0), &libvirt.DomainLookupByNameArgs{Name: "nobody"}, 42, 12, "Domain not found: "},
		{"a list for more than a client may ask", b.path, true, call(remoteProgram, 1, procConnectListDomains, 0), &libvirt.ConnectListDomainsArgs{Maxids: 16385}, 39, 12, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := b.dial(tc.path)
			if tc.opened {
				c.must(procConnectOpen, openArgs("test:///default"), nil)
			}
			payload, err := xdr.Append(nil, tc.args)
			if err != nil {
				t.Fatal(err)
			}
			c.frame(tc.header, payload)
			f := c.recv()
			if f.Header != tc.header.Answer(rpc.Failed) {
				t.Fatalf("reply %+v to %+v", f.Header, tc.header)
			}
			e := c.decode(f, nil)
			if e.Code != tc.code || e.Domain != tc.domain || e.Level != 2 || !strings.HasPrefix(*e.Message, tc.message) {
				t.Fatalf("code %d domain %d %q, want %d %d %q", e.Code, e.Domain, *e.Message, tc.code, tc.domain, tc.message)
			}
			c.must(procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 14}, nil)
		})
	}
}

func TestReadOnlyByFlag(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.dial(b.path)
	args := openArgs("test:///default")
	args.Flags = 1
	c.must(procConnectOpen, args, nil)
	if e := c.call(procDomainDefineXml, &libvirt.DomainDefineXMLArgs{XML: guestXML("x")}, nil); e == nil || e.Code != 29 {
		t.Fatalf("error %+v", e)
	}
}

func TestPingIsAnswered(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.dial(b.path)
	c.frame(keepaliveHeader(rpc.KeepalivePing), nil)
	if f := c.recv(); f.Header != keepaliveHeader(rpc.KeepalivePong) || len(f.Payload) != 0 {
		t.Fatalf("answer %+v", f.Header)
	}
}

func TestOnlyClientsThatKnowKeepaliveArePinged(t *testing.T) {
	b := newBench(t, Limits{KeepaliveInterval: 5e6, KeepaliveCount: 3})
	silent, able := b.open(b.path), b.open(b.path)
	able.must(procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}, nil)
	for range 3 {
		if f := able.recv(); f.Header != keepaliveHeader(rpc.KeepalivePing) {
			t.Fatalf("got %+v, want a ping", f.Header)
		}
	}
	able.gone()
	silent.must(procConnectGetType, &void{}, nil)
}

func TestFramesThatMeanNothingAreDropped(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	for _, typ := range []rpc.Type{rpc.Reply, rpc.Message, rpc.Stream, rpc.StreamHole, rpc.ReplyWithFDs + 90} {
		c.frame(rpc.Header{Program: remoteProgram, Version: 1, Procedure: 201, Type: typ, Serial: 77}, []byte("abcd"))
	}
	c.must(procConnectGetType, &void{}, nil)
}
