package adminserver_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/adminserver"
	"github.com/lodgevirt/lodge/host/internal/logging"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestCallsThatAreNoneGetAnErrorAndTheConnectionGoesOn(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	for _, bad := range []struct {
		name   string
		change func(*rpc.Header)
	}{
		{"procedure 0", func(h *rpc.Header) { h.Procedure = 0 }},
		{"procedure 20", func(h *rpc.Header) { h.Procedure = 20 }},
		{"procedure -1", func(h *rpc.Header) { h.Procedure = -1 }},
		{"version 2", func(h *rpc.Header) { h.Version = 2 }},
		{"another program", func(h *rpc.Header) { h.Program = 0x20008086 }},
		{"status 1", func(h *rpc.Header) { h.Status = rpc.Failed }},
		{"arguments that are short", func(h *rpc.Header) { h.Procedure = adminproto.LookupClient }},
	} {
		h, err := c.send(adminproto.ListServers, make([]byte, 8), bad.change)
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.reader.Next()
		if err != nil {
			t.Fatalf("%s: %v", bad.name, err)
		}
		if want := h.Answer(rpc.Failed); f.Header != want {
			t.Errorf("%s: answer %+v, want %+v", bad.name, f.Header, want)
		}
		e, err := rpc.ParseError(f.Payload)
		if err != nil || e.Code != int32(verr.RPC) || e.Domain != int32(verr.FromRPC) {
			t.Errorf("%s: error %+v, %v", bad.name, e, err)
		}
	}
	c.must(t, adminproto.ListServers, &adminproto.ListServersArgs{}, nil)
}

func TestFlagsAreRefused(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	for procedure, args := range map[int32]any{
		adminproto.ConnectOpen: &adminproto.FlagsArgs{Flags: 1}, adminproto.ListServers: &adminproto.ListServersArgs{Flags: 1},
		adminproto.LookupServer:      &adminproto.LookupServerArgs{Name: "virtlockd", Flags: 1},
		adminproto.GetThreadpool:     &adminproto.ServerArgs{Server: named("virtlockd"), Flags: 1},
		adminproto.SetThreadpool:     &adminproto.SetParamsArgs{Server: named("virtlockd"), Flags: 1},
		adminproto.ListClients:       &adminproto.ListClientsArgs{Server: named("virtlockd"), Flags: 1},
		adminproto.LookupClient:      &adminproto.LookupClientArgs{Server: named("admin"), ID: 1, Flags: 1},
		adminproto.ClientGetInfo:     &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 1}, Flags: 1},
		adminproto.ClientClose:       &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 1}, Flags: 1},
		adminproto.GetClientLimits:   &adminproto.ServerArgs{Server: named("virtlockd"), Flags: 1},
		adminproto.SetClientLimits:   &adminproto.SetParamsArgs{Server: named("virtlockd"), Flags: 1},
		adminproto.GetLoggingOutputs: &adminproto.FlagsArgs{Flags: 1}, adminproto.GetLoggingFilters: &adminproto.FlagsArgs{Flags: 1},
		adminproto.SetLoggingOutputs: &adminproto.SetLoggingArgs{Flags: 1}, adminproto.SetLoggingFilters: &adminproto.SetLoggingArgs{Flags: 1},
		adminproto.UpdateTLSFiles:   &adminproto.ServerArgs{Server: named("pool"), Flags: 1},
		adminproto.SetDaemonTimeout: &adminproto.SetTimeoutArgs{Flags: 1},
	} {
		if err := c.call(procedure, args, nil); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("procedure %d with flags: %v", procedure, err)
		}
	}
}

func TestServersThatThereAreNot(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	for procedure, args := range map[int32]any{
		adminproto.LookupServer: &adminproto.LookupServerArgs{Name: ""}, adminproto.GetThreadpool: about("x"), adminproto.SetThreadpool: set("x"),
		adminproto.ListClients: &adminproto.ListClientsArgs{Server: named("x")}, adminproto.LookupClient: &adminproto.LookupClientArgs{Server: named("x")},
		adminproto.ClientGetInfo:   &adminproto.ClientArgs{Client: adminproto.Client{Server: named("x"), ID: 1}},
		adminproto.ClientClose:     &adminproto.ClientArgs{Client: adminproto.Client{Server: named("x"), ID: 1}},
		adminproto.GetClientLimits: about("x"), adminproto.SetClientLimits: set("x"), adminproto.UpdateTLSFiles: about("x"),
	} {
		if err := c.call(procedure, args, nil); !verr.Is(err, verr.NoServer) {
			t.Errorf("procedure %d about no server: %v", procedure, err)
		}
	}
}

func TestPingsAreAnsweredAndOtherMessagesAreNot(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	for _, kind := range []rpc.Type{rpc.Reply, rpc.Message, rpc.Stream} {
		if _, err := c.send(adminproto.GetLibVersion, []byte{}, func(h *rpc.Header) { h.Type = kind }); err != nil {
			t.Fatal(err)
		}
	}
	ping := func(h *rpc.Header) {
		h.Program, h.Version, h.Procedure, h.Type, h.Serial = rpc.KeepaliveProgram, rpc.KeepaliveVersion, rpc.KeepalivePing, rpc.Message, 0
	}
	if _, err := c.send(0, []byte{}, ping); err != nil {
		t.Fatal(err)
	}
	f, err := c.reader.Next()
	want := rpc.Header{Program: rpc.KeepaliveProgram, Version: 1, Procedure: rpc.KeepalivePong, Type: rpc.Message}
	if err != nil || f.Header != want {
		t.Errorf("pong %+v, error %v", f.Header, err)
	}
}

func TestGarbageEndsItsOwnConnectionOnly(t *testing.T) {
	r := serve(t, 5)
	good := dial(t, r.socket)
	good.must(t, adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil)
	for _, garbage := range [][]byte{
		{0, 0, 0, 0}, {0, 0, 0, 27}, {0xff, 0xff, 0xff, 0xff}, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), bytes.Repeat([]byte{0xaa}, 100),
	} {
		bad := dial(t, r.socket)
		if _, err := bad.conn.Write(garbage); err != nil {
			t.Fatal(err)
		}
		if _, err := bad.reader.Next(); err == nil {
			t.Errorf("garbage % x is answered", garbage)
		}
	}
	eventually(t, "a hostile client is still counted", func() bool { return r.server.Limits().Clients == 1 })
	good.must(t, adminproto.GetLibVersion, []byte{}, nil)
}

func TestTooManyParametersAreRefused(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	payload, err := xdr.Append(nil, &adminproto.ServerRet{Server: named("virtlockd")})
	if err != nil {
		t.Fatal(err)
	}
	payload = binary.BigEndian.AppendUint32(payload, 33)
	for range 33 {
		if payload, err = xdr.Append(payload, uintParam("nclients_max", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.call(adminproto.SetClientLimits, binary.BigEndian.AppendUint32(payload, 0), nil); !verr.Is(err, verr.RPC) {
		t.Errorf("33 parameters: %v", err)
	}
}

// quiet is a log that changes nothing on the machine.
type quiet struct{}

func (quiet) Outputs() logging.Outputs { return nil }
func (quiet) Filters() logging.Filters { return logging.Filters{{Level: 1, Match: "a"}} }
func (quiet) SetOutputs(text string) error {
	_, err := logging.ParseOutputs(text)
	return err
}

func (quiet) SetFilters(text string) error {
	_, err := logging.ParseFilters(text)
	return err
}

func FuzzCall(f *testing.F) {
	for _, args := range []any{
		&adminproto.FlagsArgs{}, &adminproto.ListServersArgs{NeedResults: 1}, &adminproto.LookupServerArgs{Name: "pool"}, about("pool"),
		set("pool", uintParam("minWorkers", 1)), &adminproto.ListClientsArgs{Server: named("pool"), NeedResults: 1},
		&adminproto.LookupClientArgs{Server: named("pool"), ID: 1}, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("pool"), ID: 1}},
		&adminproto.SetTimeoutArgs{Seconds: 1},
	} {
		payload, err := xdr.Append(nil, args)
		if err != nil {
			f.Fatal(err)
		}
		for procedure := range int32(21) {
			f.Add(procedure, payload)
		}
	}
	f.Fuzz(func(t *testing.T, procedure int32, payload []byte) {
		pool := newPooled(adminserver.Client{ID: 1, Since: time.Unix(1, 0), Peer: &adminserver.Peer{}})
		program := adminserver.NewProgram(adminserver.Config{
			Services: []adminserver.Service{pool}, Log: quiet{}, Timeout: &timeout{},
			Logger: hclog.NewNullLogger(),
		})
		frame := rpc.Frame{Header: rpc.Header{Program: adminproto.Program, Version: 1, Procedure: procedure, Serial: 7}, Payload: payload}
		status, answer, _ := program.Call(frame)
		if len(answer) > rpc.MaxPayload {
			t.Fatalf("answer of %d bytes", len(answer))
		}
		if status == rpc.OK {
			return
		}
		e, err := rpc.ParseError(answer)
		if err != nil || e.Code == 0 || e.Message == nil {
			t.Fatalf("error %+v: %v", e, err)
		}
		if bytes.Contains([]byte(*e.Message), []byte("panicked")) {
			t.Fatal(*e.Message)
		}
	})
}

// FuzzConnection sends what is no frame at all, and looks whether the next client is served.
func FuzzConnection(f *testing.F) {
	f.Add([]byte{0, 0, 0, 28, 6, 0x90, 6, 0x90, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 4})
	r := serve(f, 5)
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(data) // the server may hang up on it
		conn.Close()
		dial(t, r.socket).must(t, adminproto.GetLibVersion, []byte{}, nil)
	})
}
