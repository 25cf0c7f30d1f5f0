package settings_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/settings"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// parse reads a table with an auth file of some text; no text is no file.
func parse(t *testing.T, endpoints map[string]any, auth string) *settings.Table {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.conf")
	if auth != "" {
		if err := os.WriteFile(path, []byte(auth), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(map[string]any{"endpoints": endpoints, "auth_file": path})
	if err != nil {
		t.Fatal(err)
	}
	table, err := settings.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// noVault is for tables without secrets.
func noVault(context.Context, string) ([]byte, error) {
	return nil, verr.New(verr.NoSecret, "there are none")
}

// resolve finds the configuration that a URI means.
func resolve(t *testing.T, table *settings.Table, uri string) (endpoint.Config, error) {
	t.Helper()
	target, err := table.Find(uri)
	if err != nil {
		t.Fatalf("%s: %v", uri, err)
	}
	return table.Config(t.Context(), target, noVault)
}

func TestCredentialsAreFoundAsLibvirtFindsThem(t *testing.T) {
	const auth = `
# a comment
[credentials-lab]
username = root
password = first = second

[credentials-rest]
username=admin
password=other
[auth-esx-10.0.0.1]
credentials=lab
[auth-esx-default]
credentials=rest
[auth-esx-lost]
credentials=none
[auth-libvirt-10.0.0.2]
credentials=lab
`
	table := parse(t, map[string]any{"named": map[string]any{"address": "10.0.0.1:8443", "user": "root"}}, auth)
	for uri, want := range map[string]string{
		"esx://10.0.0.1:9443/":    "root:first = second",
		"esx://10.0.0.2/":         "admin:other",
		"esx://admin@10.0.0.3/":   "admin:other",
		"vpx://10.0.0.4/DC/host/": "admin:other",
		"esx:///named":            "root:first = second",
	} {
		c, err := resolve(t, table, uri)
		if got := c.User + ":" + string(c.Password); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", uri, got, err, want)
		}
	}
	for uri, says := range map[string]string{
		"esx://lost/":          `"none"`,
		"esx://eve@10.0.0.2/":  `"eve"`,
		"esx://root@10.0.0.2/": `"root"`,
	} {
		if _, err := resolve(t, table, uri); !verr.Is(err, verr.AuthFailed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error is %v, want %s", uri, err, says)
		}
	}
}

func TestAuthFilesThatAreNoneAreToldOf(t *testing.T) {
	for text, says := range map[string]string{
		"":                                "add groups",
		"credentials=x":                   "line 1",
		"[auth-esx-h":                     "line 1",
		"[auth-esx-h]\n=\nnonsense":       "line 3",
		strings.Repeat("# long\n", 1<<18): "longer",
	} {
		if _, err := resolve(t, parse(t, nil, text), "esx://h/"); !verr.Is(err, verr.AuthFailed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: error is %v, want %q", text, err, says)
		}
	}
}

func TestURIsOfOnePlaceHaveOneName(t *testing.T) {
	table := parse(t, nil, "[credentials-x]\nusername=root\npassword=p\n[auth-esx-default]\ncredentials=x\n")
	for _, same := range [][]string{
		{"esx://h", "esx://h/", "esx://h:443/", "esx://root@h", "esx://h/?transport=https", "esx://h?no_verify=0&auto_answer=0"},
		{"esx://h/?transport=http", "esx://h:80/?transport=http"},
		{"esx://h:8443/?no_verify=1", "esx://root@h:8443?no_verify=1"},
		{"vpx://h/dc/a%2Fb", "vpx://root@h:443/dc/a%2fb/"},
	} {
		first, err := table.Find(same[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, uri := range same {
			if got, err := table.Find(uri); err != nil || got.Connection != first.Connection {
				t.Errorf("%s is %q, %v, and %s is %q", uri, got.Connection, err, same[0], first.Connection)
			}
		}
		if again, err := table.Find(first.Connection); err != nil || again.Connection != first.Connection {
			t.Errorf("%q is %q, %v", first.Connection, again.Connection, err)
		}
		if strings.Contains(first.URI, "root") {
			t.Errorf("clients are told %q", first.URI)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("esx:///lab", "[auth-esx-h]\ncredentials=x\n[credentials-x]\nusername=u\npassword=p")
	f.Add("vpx://u@h:1/a/b?auto_answer=1", "[")
	f.Fuzz(func(t *testing.T, uri, auth string) {
		if strings.Contains(auth, "\x00") {
			return
		}
		table := parse(t, map[string]any{"lab": map[string]any{"address": "h", "user": "u"}}, auth)
		target, err := table.Find(uri)
		if err != nil {
			return
		}
		again, err := table.Find(target.Connection)
		if err != nil || again.Connection != target.Connection {
			t.Errorf("%q is %q, and that is %q, %v", uri, target.Connection, again.Connection, err)
		}
		_, _ = table.Config(t.Context(), target, noVault) // must not panic
	})
}
