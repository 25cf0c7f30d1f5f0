package adminserver_test

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/adminserver"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestServersAreListedAndFound(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	c.must(t, adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil)
	var version adminproto.LibVersionRet
	c.must(t, adminproto.GetLibVersion, []byte{}, &version)
	if version.Version != 9000000 {
		t.Errorf("version %d", version.Version)
	}
	var list adminproto.ListServersRet
	c.must(t, adminproto.ListServers, &adminproto.ListServersArgs{NeedResults: 1}, &list)
	if want := []adminproto.Server{named("admin"), named("virtlockd"), named("pool")}; !reflect.DeepEqual(list.Servers, want) || list.Number != 3 {
		t.Errorf("servers %+v", list)
	}
	c.must(t, adminproto.ListServers, &adminproto.ListServersArgs{}, &list)
	if len(list.Servers) != 0 || list.Number != 3 {
		t.Errorf("number of servers %+v", list)
	}
	var found adminproto.ServerRet
	c.must(t, adminproto.LookupServer, &adminproto.LookupServerArgs{Name: "pool"}, &found)
	if found.Server.Name != "pool" {
		t.Errorf("found %+v", found)
	}
}

func TestWorkers(t *testing.T) {
	r := serve(t, 5)
	c := dial(t, r.socket)
	get := func(server string) map[string]any {
		var ret adminproto.ParamsRet
		c.must(t, adminproto.GetThreadpool, about(server), &ret)
		return values(ret.Params)
	}
	none := map[string]any{
		"minWorkers": uint32(0), "maxWorkers": uint32(0), "nWorkers": uint32(0), "freeWorkers": uint32(0), "prioWorkers": uint32(0),
		"jobQueueDepth": uint32(0),
	}
	if got := get("virtlockd"); !maps.Equal(got, none) {
		t.Errorf("workers %v", got)
	}
	some := map[string]any{
		"minWorkers": uint32(5), "maxWorkers": uint32(20), "nWorkers": uint32(6), "freeWorkers": uint32(4), "prioWorkers": uint32(5),
		"jobQueueDepth": uint32(1),
	}
	if got := get("pool"); !maps.Equal(got, some) {
		t.Errorf("workers %v", got)
	}
	for _, args := range []*adminproto.SetParamsArgs{
		set("virtlockd"), set("virtlockd", uintParam("maxWorkers", 0), uintParam("minWorkers", 0)), set("virtlockd", uintParam("prioWorkers", 0)),
		set("pool", uintParam("minWorkers", 20)), set("pool", uintParam("maxWorkers", 30), uintParam("prioWorkers", 7)),
	} {
		if err := c.call(adminproto.SetThreadpool, args, nil); err != nil {
			t.Errorf("%+v: %v", args, err)
		}
	}
	if w := r.pool.Workers(); w.Min != 20 || w.Max != 30 || w.Priority != 7 {
		t.Errorf("workers %+v", w)
	}
	for _, args := range []*adminproto.SetParamsArgs{
		set("virtlockd", uintParam("minWorkers", 1)), set("virtlockd", uintParam("maxWorkers", 1)), set("virtlockd", uintParam("prioWorkers", 1)),
		set("pool", uintParam("minWorkers", 31)), set("pool", uintParam("maxWorkers", 0), uintParam("minWorkers", 0)),
		set("pool", uintParam("maxWorkers", 101)),
	} {
		if err := c.call(adminproto.SetThreadpool, args, nil); err == nil {
			t.Errorf("%+v is accepted", args)
		}
	}
}

func TestClients(t *testing.T) {
	r := serve(t, 5)
	since := time.Unix(1700000000, 0)
	r.locks.connect(
		adminserver.Client{ID: 9, Since: since, Peer: &adminserver.Peer{UID: 0, GID: 0, PID: 77}},
		adminserver.Client{ID: 3, Since: since, Transport: adminproto.TransportTLS, ReadOnly: true, Address: "127.0.0.1:1", SASLUser: "u", TLSName: "CN=x", SELinuxContext: "s"},
		adminserver.Client{ID: 4, Since: since, Peer: &adminserver.Peer{UID: 4294000000, GID: 4294000001, PID: 78}},
	)
	c := dial(t, r.socket)
	var list adminproto.ListClientsRet
	c.must(t, adminproto.ListClients, &adminproto.ListClientsArgs{Server: named("virtlockd"), NeedResults: 1}, &list)
	third := adminproto.Client{Server: named("virtlockd"), ID: 3, Since: 1700000000, Transport: 2}
	if list.Number != 3 || len(list.Clients) != 3 || list.Clients[0] != third || list.Clients[1].ID != 4 || list.Clients[2].ID != 9 {
		t.Errorf("clients %+v", list)
	}
	c.must(t, adminproto.ListClients, &adminproto.ListClientsArgs{Server: named("virtlockd")}, &list)
	if list.Number != 3 || len(list.Clients) != 0 {
		t.Errorf("number of clients %+v", list)
	}
	var found adminproto.ClientRet
	c.must(t, adminproto.LookupClient, &adminproto.LookupClientArgs{Server: named("virtlockd"), ID: 3}, &found)
	if found.Client != third {
		t.Errorf("found %+v", found)
	}
	for id, want := range map[uint64]map[string]any{
		3: {"readonly": int32(1), "sock_addr": "127.0.0.1:1", "sasl_user_name": "u", "tls_x509_dname": "CN=x", "selinux_context": "s"},
		4: {
			"readonly": int32(0), "unix_user_id": int32(-967296), "unix_user_name": "4294000000", "unix_group_id": int32(-967295),
			"unix_group_name": "4294000001", "unix_process_id": int32(78),
		},
		9: {
			"readonly": int32(0), "unix_user_id": int32(0), "unix_user_name": "root", "unix_group_id": int32(0), "unix_group_name": "root",
			"unix_process_id": int32(77),
		},
	} {
		var info adminproto.ClientInfoRet
		c.must(t, adminproto.ClientGetInfo, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("virtlockd"), ID: id}}, &info)
		if got := values(info.Params); !maps.Equal(got, want) {
			t.Errorf("client %d: %v, want %v", id, got, want)
		}
	}
	gone := &adminproto.ClientArgs{Client: third}
	c.must(t, adminproto.ClientClose, gone, nil)
	for _, procedure := range []int32{adminproto.ClientClose, adminproto.ClientGetInfo} {
		if err := c.call(procedure, gone, nil); !verr.Is(err, verr.NoClient) {
			t.Errorf("procedure %d for a client that is gone: %v", procedure, err)
		}
	}
}

func TestClientsOfTheAdminServerItself(t *testing.T) {
	r := serve(t, 2)
	a, b := dial(t, r.socket), dial(t, r.socket)
	a.must(t, adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil)
	b.must(t, adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil)
	var info adminproto.ClientInfoRet
	a.must(t, adminproto.ClientGetInfo, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 2}}, &info)
	if got := values(info.Params)["unix_process_id"]; got != int32(os.Getpid()) {
		t.Errorf("process %v", got)
	}
	// At the limit a third one waits until there is room.
	c := dial(t, r.socket)
	if _, err := c.send(adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil); err != nil {
		t.Fatal(err)
	}
	var list adminproto.ListClientsRet
	a.must(t, adminproto.ListClients, &adminproto.ListClientsArgs{Server: named("admin")}, &list)
	if list.Number != 2 {
		t.Errorf("%d clients at a limit of 2", list.Number)
	}
	a.must(t, adminproto.ClientClose, &adminproto.ClientArgs{Client: adminproto.Client{Server: named("admin"), ID: 2}}, nil)
	if err := b.call(adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil); err == nil {
		t.Error("a client that was disconnected is answered")
	}
	if _, err := c.reader.Next(); err != nil {
		t.Errorf("the client that waited: %v", err)
	}
	// A limit that is raised makes room at once.
	d := dial(t, r.socket)
	a.must(t, adminproto.SetClientLimits, set("admin", uintParam("nclients_max", 3)), nil)
	d.must(t, adminproto.ConnectOpen, &adminproto.FlagsArgs{}, nil)
	d.must(t, adminproto.ConnectClose, []byte{}, nil)
	if _, err := d.reader.Next(); err == nil {
		t.Error("a closed connection says something")
	}
	eventually(t, "a client that has left is still counted", func() bool { return r.server.Limits().Clients == 2 })
}

func TestLimits(t *testing.T) {
	r := serve(t, 5)
	c := dial(t, r.socket)
	r.locks.connect(adminserver.Client{ID: 1})
	get := func() map[string]any {
		var ret adminproto.ParamsRet
		c.must(t, adminproto.GetClientLimits, about("virtlockd"), &ret)
		return values(ret.Params)
	}
	want := map[string]any{"nclients_max": uint32(1024), "nclients": uint32(1), "nclients_unauth_max": uint32(1024), "nclients_unauth": uint32(0)}
	if got := get(); !maps.Equal(got, want) {
		t.Errorf("limits %v", got)
	}
	for _, bad := range []*adminproto.SetParamsArgs{
		set("virtlockd", uintParam("nclients_max", 20)), set("virtlockd", uintParam("nclients_unauth_max", 1025)),
		set("virtlockd", uintParam("nclients", 1)), set("virtlockd", uintParam("x", 1)),
		set("virtlockd", uintParam("nclients_max", 2000), uintParam("nclients_max", 2000)),
		set("virtlockd", adminproto.Param{Field: "nclients_max", Value: adminproto.Value{D: adminproto.TypeUllong, I: uint64(2000)}}),
	} {
		if err := c.call(adminproto.SetClientLimits, bad, nil); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if got := get(); !maps.Equal(got, want) {
		t.Errorf("a refused change has changed limits to %v", got)
	}
	c.must(t, adminproto.SetClientLimits, set("virtlockd", uintParam("nclients_max", 20), uintParam("nclients_unauth_max", 10)), nil)
	want["nclients_max"], want["nclients_unauth_max"] = uint32(20), uint32(10)
	if got := get(); !maps.Equal(got, want) {
		t.Errorf("limits %v", got)
	}
}

func TestLogIsShownAndChanged(t *testing.T) {
	c := dial(t, serve(t, 5).socket)
	show := func() (outputs string, filters string) {
		var o adminproto.OutputsRet
		var f adminproto.FiltersRet
		c.must(t, adminproto.GetLoggingOutputs, &adminproto.FlagsArgs{}, &o)
		c.must(t, adminproto.GetLoggingFilters, &adminproto.FlagsArgs{}, &f)
		if f.Filters != nil {
			filters = *f.Filters
		}
		return o.Outputs, filters
	}
	text := func(s string) *adminproto.SetLoggingArgs { return &adminproto.SetLoggingArgs{Text: &s} }
	file := filepath.Join(t.TempDir(), "log")
	c.must(t, adminproto.SetLoggingOutputs, text("1:stderr 4:file:"+file), nil)
	c.must(t, adminproto.SetLoggingFilters, text("1:a 2:b"), nil)
	if outputs, filters := show(); outputs != "1:stderr 4:file:"+file || filters != "1:*a* 2:*b* " {
		t.Errorf("outputs %q filters %q", outputs, filters)
	}
	if err := c.call(adminproto.SetLoggingOutputs, text("1:file:/nowhere/log"), nil); !verr.Is(err, verr.SystemError) {
		t.Errorf("a file that cannot be opened: %v", err)
	}
	if err := c.call(adminproto.SetLoggingOutputs, text("1:bogus"), nil); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("bad outputs: %v", err)
	}
	if err := c.call(adminproto.SetLoggingFilters, text("9:a"), nil); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("bad filters: %v", err)
	}
	c.must(t, adminproto.SetLoggingOutputs, &adminproto.SetLoggingArgs{}, nil)
	c.must(t, adminproto.SetLoggingFilters, &adminproto.SetLoggingArgs{}, nil)
	if outputs, filters := show(); outputs != "3:stderr" || filters != "" {
		t.Errorf("outputs %q filters %q", outputs, filters)
	}
}

func TestTimeoutAndTLS(t *testing.T) {
	r := serve(t, 5)
	c := dial(t, r.socket)
	c.must(t, adminproto.SetDaemonTimeout, &adminproto.SetTimeoutArgs{Seconds: 90}, nil)
	if after := time.Duration(r.timeout.after.Load()); after != 90*time.Second {
		t.Errorf("timeout %v", after)
	}
	c.must(t, adminproto.UpdateTLSFiles, about("pool"), nil)
	if r.pool.updates.Load() != 1 {
		t.Error("certificates are not read again")
	}
	if err := c.call(adminproto.UpdateTLSFiles, about("virtlockd"), nil); !verr.Is(err, verr.Internal) {
		t.Errorf("certificates of a server without TLS: %v", err)
	}
}
