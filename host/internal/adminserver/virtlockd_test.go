package adminserver_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// question is one call, and how the answers are made alike before they are compared.
type question struct {
	procedure int32
	args      any
	// alike takes out of an answer what differs from daemon to daemon; nil compares all of it.
	alike func([]byte) (any, error)
}

func decoded[T any](change func(*T)) func([]byte) (any, error) {
	return func(payload []byte) (any, error) {
		var ret T
		_, err := xdr.Unmarshal(payload, &ret)
		change(&ret)
		return ret, err
	}
}

// questions are asked in this order on one connection.
func questions() []question {
	self := adminproto.Client{Server: named("admin"), ID: 1}
	text := func(s string) *adminproto.SetLoggingArgs { return &adminproto.SetLoggingArgs{Text: &s} }
	out := []question{
		{ // Before the connection is opened. virtlockd lists its servers in an order that changes from start to start.
			adminproto.ListServers, &adminproto.ListServersArgs{NeedResults: 1},
			decoded(func(r *adminproto.ListServersRet) {
				slices.SortFunc(r.Servers, func(a, b adminproto.Server) int { return strings.Compare(a.Name, b.Name) })
			}),
		},
		{adminproto.ConnectOpen, &adminproto.FlagsArgs{Flags: 1}, nil},
		{adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil},
		{adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil},
		{adminproto.GetLibVersion, []byte{}, nil},
		{adminproto.GetLibVersion, []byte{1, 2, 3, 4}, nil},
		{adminproto.ListServers, &adminproto.ListServersArgs{}, nil},
		{adminproto.ListServers, &adminproto.ListServersArgs{Flags: 1}, nil},
		{adminproto.ListServers, make([]byte, 4), nil},
		{0, []byte{}, nil},
		{20, []byte{}, nil},
		{-1, []byte{}, nil},
		{adminproto.ListClients, &adminproto.ListClientsArgs{Server: named("admin")}, nil},
		{
			adminproto.ListClients, &adminproto.ListClientsArgs{Server: named("admin"), NeedResults: 1},
			decoded(func(r *adminproto.ListClientsRet) { r.Clients[0].Since = 0 }),
		},
		{
			adminproto.LookupClient, &adminproto.LookupClientArgs{Server: named("admin"), ID: 1},
			decoded(func(r *adminproto.ClientRet) { r.Client.Since = 0 }),
		},
		{adminproto.LookupClient, &adminproto.LookupClientArgs{Server: named("admin"), ID: 99}, nil},
		{adminproto.ClientGetInfo, &adminproto.ClientArgs{Client: self}, nil},
		{adminproto.ClientGetInfo, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 99}}, nil},
		{adminproto.ClientClose, &adminproto.ClientArgs{Client: self, Flags: 1}, nil},
		{adminproto.ClientClose, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 99}}, nil},
		{adminproto.GetLoggingOutputs, &adminproto.FlagsArgs{}, nil},
		{adminproto.GetLoggingFilters, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetLoggingOutputs, text("2:stderr 3:syslog:x 4:journald"), nil},
		{adminproto.GetLoggingOutputs, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetLoggingOutputs, text("1:bogus"), nil},
		{adminproto.SetLoggingOutputs, text("1:file:/nowhere/x"), nil},
		{adminproto.SetLoggingOutputs, &adminproto.SetLoggingArgs{}, nil},
		{adminproto.GetLoggingOutputs, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetLoggingFilters, text("4:a 3:b"), nil},
		{adminproto.GetLoggingFilters, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetLoggingFilters, text("4:a 9:b"), nil},
		{adminproto.GetLoggingFilters, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetLoggingFilters, &adminproto.SetLoggingArgs{}, nil},
		{adminproto.GetLoggingFilters, &adminproto.FlagsArgs{}, nil},
		{adminproto.SetDaemonTimeout, &adminproto.SetTimeoutArgs{Seconds: 4294967295}, nil},
		{adminproto.SetDaemonTimeout, &adminproto.SetTimeoutArgs{}, nil},
		{adminproto.SetDaemonTimeout, &adminproto.SetTimeoutArgs{Flags: 1}, nil},
	}
	for _, server := range []string{"virtlockd", "admin", "bogus", ""} {
		out = append(
			out, question{adminproto.LookupServer, &adminproto.LookupServerArgs{Name: server}, nil},
			question{adminproto.GetThreadpool, about(server), nil}, question{adminproto.GetClientLimits, about(server), nil},
			question{adminproto.UpdateTLSFiles, about(server), nil},
		)
		for _, params := range [][]adminproto.Param{
			nil,
			{uintParam("minWorkers", 0)},
			{uintParam("maxWorkers", 0), uintParam("prioWorkers", 0)},
			{uintParam("minWorkers", 5)},
			{uintParam("maxWorkers", 5)},
			{uintParam("nWorkers", 1)},
			{uintParam("x", 1)},
			{uintParam("maxWorkers", 0), uintParam("maxWorkers", 0)},
			{{Field: "maxWorkers", Value: adminproto.Value{D: adminproto.TypeInt, I: int32(0)}}},
		} {
			out = append(out, question{adminproto.SetThreadpool, set(server, params...), nil})
		}
		for _, params := range [][]adminproto.Param{
			nil,
			{uintParam("nclients_max", 20)},
			{uintParam("nclients_unauth_max", 9000)},
			{uintParam("nclients", 1)},
			{uintParam("x", 1)},
			{uintParam("nclients_max", 100), uintParam("nclients_unauth_max", 0)},
			{uintParam("nclients_max", 4294967295)},
			{{Field: "nclients_max", Value: adminproto.Value{D: adminproto.TypeString, I: "1"}}},
		} {
			out = append(out, question{adminproto.SetClientLimits, set(server, params...), nil}, question{adminproto.GetClientLimits, about(server), nil})
		}
	}
	return append(out, question{adminproto.ConnectClose, []byte{}, nil})
}

// TestVirtlockdAnswersTheSame asks a real virtlockd and us the same and compares the answers: all of them where they are no errors,
// else the code.
func TestVirtlockdAnswersTheSame(t *testing.T) {
	daemon := virtlockdtest.Start(t, "-f", "/dev/null")
	if !daemon.Running() {
		_, stderr := daemon.Stop(t)
		t.Fatal(stderr)
	}
	theirs, ours := talk(t, daemon.Dial(t, daemon.AdminSocket)), dial(t, serveAsVirtlockd(t).socket)
	for _, q := range questions() {
		want, err := theirs.answer(q)
		if err != nil {
			t.Fatalf("procedure %d %+v: virtlockd: %v", q.procedure, q.args, err)
		}
		got, err := ours.answer(q)
		if err != nil {
			t.Fatalf("procedure %d %+v: %v", q.procedure, q.args, err)
		}
		if got != want {
			t.Errorf("procedure %d %+v\nwe say         %s\nvirtlockd says %s", q.procedure, q.args, got, want)
		}
	}
	for name, c := range map[string]*caller{"virtlockd": theirs, "ours": ours} {
		if _, err := c.reader.Next(); err == nil {
			t.Errorf("%s: the connection goes on after its end", name)
		}
	}
}

// answer asks a question and returns what is to be the same.
func (c *caller) answer(q question) (string, error) {
	if _, err := c.send(q.procedure, q.args, nil); err != nil {
		return "", err
	}
	f, err := c.reader.Next()
	if err != nil {
		return "", err
	}
	if f.Status == rpc.Failed {
		e, err := rpc.ParseError(f.Payload)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("error %d level %d", e.Code, e.Level), nil
	}
	if q.alike == nil {
		return fmt.Sprintf("status %d: %q", f.Status, bytes.Clone(f.Payload)), nil
	}
	same, err := q.alike(f.Payload)
	return fmt.Sprintf("%+v", same), err
}
