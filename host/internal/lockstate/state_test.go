package lockstate

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fixtures are saved states of libvirt's daemons of all times, which libvirt's own tests read. They lie outside of the repository.
const fixtures = "../../../../shared/fixtures/virnetdaemon"

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Skip("no fixtures: ", err)
	}
	return text
}

// value is JSON as any value, to be compared.
func value(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestStatesOfAllTimesBecomeTodays(t *testing.T) {
	for _, name := range []string{
		"initial", "anon-clients", "admin", "admin-server-names", "no-keepalive-required", "client-ids", "client-timestamp",
		"client-auth-pending",
	} {
		t.Run(name, func(t *testing.T) {
			d, err := ParseDaemon(fixture(t, "input-data-"+name+".json"), "testServer0", "testServer1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			want := fixture(t, "output-data-"+name+".json")
			if diff := cmp.Diff(value(t, want), value(t, got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if again, err := ParseDaemon(got); err != nil || !cmp.Equal(d, again) {
				t.Errorf("what was written is read as something else: %v, %s", err, cmp.Diff(d, again))
			}
		})
	}
}

func TestStatesThatLibvirtRefusesAreRefused(t *testing.T) {
	for name, where := range map[string]string{
		"client-auth-pending-failure": "servers.testServer0.clients[0].auth_pending",
		"invalid-max-clients-failure": "servers.testServer0.max_anonymous_clients",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDaemon(fixture(t, "input-data-"+name+".json"), "testServer0", "testServer1")
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), where) {
				t.Errorf("error %v, want one that names %s", err, where)
			}
		})
	}
}

func TestServerThatWasNotSavedIsMissing(t *testing.T) {
	d, err := ParseDaemon(fixture(t, "input-data-anon-clients.json"), "testServer0", "testServer1")
	if err != nil || d.Server("testServer0") == nil || d.Server("testServer1") != nil {
		t.Errorf("%+v, %v", d, err)
	}
}

// virtlockds is what virtlockd 9.0.0 has left, with two clients and three locks.
const virtlockds = `{"daemon":{"servers":{"admin":{"min_workers":0,"max_workers":0,"priority_workers":0,"max_clients":5000,
"max_anonymous_clients":5000,"keepaliveInterval":4294967295,"keepaliveCount":0,"next_client_id":2,
"services":[{"auth":0,"readonly":false,"nrequests_client_max":1,
"socks":[{"fd":5,"errfd":-1,"pid":0,"isClient":false,"unlinkUNIX":true}]}],"clients":[]},
"virtlockd":{"min_workers":0,"max_workers":0,"priority_workers":0,"max_clients":1024,"max_anonymous_clients":1024,
"keepaliveInterval":4294967295,"keepaliveCount":0,"next_client_id":3,"services":[{"auth":0,"readonly":false,"nrequests_client_max":1,
"socks":[{"fd":4,"errfd":-1,"pid":0,"isClient":false,"unlinkUNIX":true}]}],
"clients":[{"id":1,"auth":0,"auth_pending":false,"readonly":false,"nrequests_max":1,"conn_time":1795854956,
"sock":{"fd":9,"errfd":-1,"pid":0,"isClient":true,"unlinkUNIX":false},
"privateData":{"restricted":true,"ownerPid":26000,"ownerId":7,"ownerName":"guestA","ownerUUID":"00010203-0405-0607-0809-0a0b0c0d0e0f"}}]}}},
"defaultLockspace":{"resources":[{"name":"/img1","path":"/img1","fd":14,"lockHeld":true,"flags":0,"owners":[26000]}]},
"lockspaces":[{"directory":"/locks","resources":[
{"name":"shr","path":"/locks/shr","fd":13,"lockHeld":true,"flags":3,"owners":[26000,26000]},
{"name":"abc","path":"/locks/abc","fd":12,"lockHeld":true,"flags":2,"owners":[26000]}]}],"magic":"25983"}`

func TestVirtlockdsStateIsReadAndWritten(t *testing.T) {
	s, err := Parse([]byte(virtlockds))
	if err != nil {
		t.Fatal(err)
	}
	server := s.Daemon.Server("virtlockd")
	if s.Magic != "25983" || s.Own != nil || len(s.Daemon.Servers) != 2 || server == nil {
		t.Fatalf("%+v", s)
	}
	if server.KeepaliveInterval != -1 || server.NextClientID != 3 || server.Services[0].Sockets[0].FD != 4 {
		t.Errorf("server %+v", server)
	}
	var private Private
	if err := json.Unmarshal(server.Clients[0].Private, &private); err != nil {
		t.Fatal(err)
	}
	want := Private{Restricted: true, OwnerPID: 26000, OwnerID: 7, OwnerName: "guestA", OwnerUUID: "00010203-0405-0607-0809-0a0b0c0d0e0f"}
	if private != want {
		t.Errorf("client %+v", private)
	}
	shared := Resource{Name: "shr", Path: "/locks/shr", FD: 13, Held: true, Flags: 3, Owners: []int64{26000, 26000}}
	if s.Lockspaces[0].Directory != "/locks" || !cmp.Equal(s.Lockspaces[0].Resources[0], shared) || s.Default.Resources[0].FD != 14 {
		t.Errorf("lockspaces %+v, %+v", s.Default, s.Lockspaces)
	}
	got, err := s.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(value(t, []byte(virtlockds)), value(t, got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOwnPartIsKeptAndUnknownKeysAreNot(t *testing.T) {
	text := strings.Replace(virtlockds, `"magic"`, `"lodge":{"a":[1]},"of tomorrow":{"x":null},"magic"`, 1)
	text = strings.Replace(text, `"fd":9,`, `"fd":9,"colour":"red",`, 1)
	s, err := Parse([]byte(text))
	if err != nil || string(s.Own) != `{"a":[1]}` {
		t.Fatalf("own part %s, error %v", s.Own, err)
	}
	got, err := s.Append([]byte("before "))
	if err != nil || !strings.HasPrefix(string(got), "before {") {
		t.Fatalf("%.40s, %v", got, err)
	}
	if strings.Contains(string(got), "colour") || !strings.Contains(string(got), `"lodge":{"a":[1]}`) {
		t.Errorf("written: %s", got)
	}
}

func TestHeadOfAStateOfOurs(t *testing.T) {
	s, err := Parse([]byte(virtlockds))
	if err != nil {
		t.Fatal(err)
	}
	var mine map[string][]int
	if head, ok := ParseHead([]byte(virtlockds), &mine); ok {
		t.Errorf("virtlockd's state has a head: %+v", head)
	}
	s.Own = json.RawMessage(`{"a":[1]}`)
	text, err := s.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &State{Magic: s.Magic, Daemon: s.Daemon}
	// What comes behind the head may be anything.
	at := strings.Index(string(text), `"defaultLockspace"`)
	for _, text := range [][]byte{text, text[:at]} {
		mine = nil
		if head, ok := ParseHead(text, &mine); !ok || !cmp.Equal(head, want) || len(mine["a"]) != 1 {
			t.Errorf("%v, %v: %s", ok, mine, cmp.Diff(want, head))
		}
	}
	for end := range at - 2 {
		if head, ok := ParseHead(text[:end], &mine); ok {
			t.Fatalf("%d bytes are a head: %+v", end, head)
		}
	}
}

func TestOldestStateOfALockDaemonNamesItsServerOnly(t *testing.T) {
	from := strings.Index(virtlockds, `"virtlockd":`) + len(`"virtlockd":`)
	to := strings.Index(virtlockds, `,
"defaultLockspace"`) - 2
	text := `{"server":` + virtlockds[from:to] + virtlockds[to+2:]
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Daemon.Servers) != 1 || s.Daemon.Server("virtlockd") == nil || s.Daemon.Server("admin") != nil {
		t.Errorf("%+v", s.Daemon)
	}
}

func TestDamageIsNamedWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name, old, new, want string
	}{
		{"cut off", virtlockds[100:], "", "line 1, column "},
		{"no JSON", virtlockds, "x", "line 1, column 1"},
		{"another value", virtlockds, "[]", "line 1, column 1"},
		{"a stray character", `"defaultLockspace"`, `}`, "line 11, column 1"},
		{"another type", `"fd":9`, `"fd":"nine"`, `server "virtlockd": clients.sock.fd is a string`},
		{"a number that is too large", `"fd":9`, `"fd":99999999999`, `server "virtlockd": clients.sock.fd is a number 99999999999`},
		{"no magic", `"magic"`, `"tragic"`, "magic is missing"},
		{"no daemon", `"daemon"`, `"demon"`, "daemon is missing"},
		{"no descriptor", `"fd":9,`, ``, "daemon.servers.virtlockd.clients[0].sock.fd is missing"},
		{"a negative descriptor", `"fd":4,`, `"fd":-1,`, "daemon.servers.virtlockd.services[0].socks[0].fd is negative"},
		{"no socket", `"sock":`, `"shock":`, "daemon.servers.virtlockd.clients[0].sock is missing"},
		{"no lockspaces", `"lockspaces"`, `"rockspaces"`, "lockspaces are missing"},
		{"no default lockspace", `"defaultLockspace"`, `"rockspace"`, "defaultLockspace is missing"},
		{"no directory", `"directory":"/locks",`, ``, "lockspaces[0].directory is missing"},
		{"no owners", `"owners":[26000]}]}],"magic"`, `"loners":[1]}]}],"magic"`, "lockspaces[0].resources[1].owners are missing"},
		{"a lock without a descriptor", `"fd":14`, `"fd":-1`, "defaultLockspace.resources[0].fd is negative"},
		{"a server twice", `"admin":`, `"virtlockd":`, "daemon.servers.virtlockd is there twice"},
		{"an interval of hours", `4294967295`, `4294967296`, "daemon.servers.admin.keepaliveInterval is out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(virtlockds, c.old, c.new, 1)
			if text == virtlockds {
				t.Fatal("nothing was replaced")
			}
			_, err := Parse([]byte(text))
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

func TestTooLargeStateIsNeitherReadNorWritten(t *testing.T) {
	if _, err := Parse(slices.Repeat([]byte(" "), MaxSize+1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %v", err)
	}
	s := &State{Default: Lockspace{Resources: []Resource{{Name: strings.Repeat("n", MaxSize)}}}}
	if got, err := s.Append([]byte("x")); err == nil || string(got) != "x" {
		t.Errorf("written: %d bytes, error %v", len(got), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(virtlockds))
	f.Add([]byte(strings.Replace(virtlockds, `"magic"`, `"lodge":{"clients":[]},"magic"`, 1)))
	f.Add([]byte(`{"server":{},"magic":""}`))
	f.Add([]byte(`{"daemon":{"servers":[{},{}]},"defaultLockspace":{},"lockspaces":[{}],"magic":"1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var mine any
		if head, ok := ParseHead(text, &mine); ok && len(head.Daemon.Servers) == 0 && head.Magic == "" && mine == nil {
			t.Fatalf("head of nothing: %+v", head)
		}
		s, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		out, err := s.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v: %s", err, out)
		}
		once, err := again.Append(nil)
		if err != nil || string(once) != string(out) {
			t.Fatalf("written as %s and then as %s (%v)", out, once, err)
		}
	})
}
