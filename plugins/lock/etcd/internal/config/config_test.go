package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var parser = config.Parser{Machine: func() (string, error) { return "here", nil }}

func TestDefaults(t *testing.T) {
	c, err := parser.Parse([]byte(`{"endpoints": ["http://127.0.0.1:2379"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Prefix != "/lodge/locks/" || c.Host != "here" || c.TTL != 30*time.Second || c.DialTimeout != 3*time.Second ||
		c.RequestTimeout != 5*time.Second || !c.AutoDiskLeases || c.RequireLeaseForDisks {
		t.Errorf("defaults are %+v", c)
	}
	if c, err = parser.Parse([]byte(`{"endpoints": ["http://127.0.0.1:2379"], "auto_disk_leases": false}`)); err != nil || !c.RequireLeaseForDisks {
		t.Errorf("without automatic leases one is not required: %+v, %v", c, err)
	}
}

func TestEveryKeyIsDescribed(t *testing.T) {
	keys := config.Keys()
	if len(keys) != 13 {
		t.Errorf("%d keys are described", len(keys))
	}
	for _, k := range keys {
		_, err := parser.Parse([]byte(`{"` + k.GetName() + `": {}}`))
		if err == nil || strings.Contains(err.Error(), "unknown field") {
			t.Errorf("key %q is described and not read: %v", k.GetName(), err)
		}
		if k.GetHelp() == "" || k.GetKind() == 0 {
			t.Errorf("key %q is described as %v", k.GetName(), k)
		}
	}
}

// file writes a file of a test.
func file(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestErrorsNameTheKey(t *testing.T) {
	secret := file(t, "password", "secret\n", 0o600)
	open := file(t, "open", "secret\n", 0o644)
	empty := file(t, "empty", " \n", 0o600)
	const good = `"endpoints": ["https://a:2379"]`
	for _, c := range []struct{ name, json, says string }{
		{"no table", ``, "endpoints: name the members"},
		{"no JSON", `{`, "read configuration"},
		{"two tables", `{` + good + `} {}`, "more than one"},
		{"an unknown key", `{"endpoint": "x"}`, `"endpoint"`},
		{"another kind", `{"ttl": "30"}`, "ttl"},
		{"no members", `{"endpoints": []}`, "endpoints: name the members"},
		{"too many members", `{"endpoints": [` + strings.Repeat(`"http://a:1",`, 32) + `"http://a:1"]}`, "endpoints: at most"},
		{"no URL", `{"endpoints": ["a:2379"]}`, `endpoints: "a:2379"`},
		{"no port", `{"endpoints": ["https://a"]}`, "no port"},
		{"a path", `{"endpoints": ["https://a:2379/x"]}`, "has more than"},
		{"a password in the URL", `{"endpoints": ["https://me:too@a:2379"]}`, "has more than"},
		{"mixed schemes", `{"endpoints": ["https://a:2379", "http://b:2379"]}`, "must both be https"},
		{"a CA without encryption", `{"endpoints": ["http://a:2379"], "ca": "/x"}`, "is not encrypted"},
		{"a CA that is missing", `{` + good + `, "ca": "/does/not/exist"}`, "ca: "},
		{"a CA that is none", `{` + good + `, "ca": "` + secret + `"}`, "no certificate in PEM form"},
		{"a CA that is a folder", `{` + good + `, "ca": "/"}`, "no regular file"},
		{"cert alone", `{` + good + `, "cert": "/x"}`, "cert and key belong together"},
		{"a certificate that is missing", `{` + good + `, "cert": "/does/not/exist", "key": "/x"}`, "cert: "},
		{"a key that is missing", `{` + good + `, "cert": "` + secret + `", "key": "/does/not/exist"}`, "key: "},
		{"a certificate that is none", `{` + good + `, "cert": "` + secret + `", "key": "` + secret + `"}`, "cert and key: files"},
		{"user alone", `{` + good + `, "user": "me"}`, "user and password_file belong together"},
		{"a password that is missing", `{` + good + `, "user": "me", "password_file": "/does/not/exist"}`, "password_file: "},
		{"a password for all to read", `{` + good + `, "user": "me", "password_file": "` + open + `"}`, "make it 0600"},
		{"no password", `{` + good + `, "user": "me", "password_file": "` + empty + `"}`, "is empty"},
		{"an odd user", `{` + good + `, "user": "a\nb", "password_file": "` + secret + `"}`, "user must"},
		{"a prefix without a slash", `{` + good + `, "prefix": "/locks"}`, "prefix must"},
		{"no prefix", `{` + good + `, "prefix": ""}`, "prefix must"},
		{"an odd host", `{` + good + `, "host": "a\u0000"}`, "host must"},
		{"a short ttl", `{` + good + `, "ttl": 4}`, "ttl must be 5 to 3600"},
		{"a long ttl", `{` + good + `, "ttl": 9223372036854775807}`, "ttl must"},
		{"no time to dial", `{` + good + `, "dial_timeout": 0}`, "dial_timeout must"},
		{"negative time", `{` + good + `, "request_timeout": -9223372036854775808}`, "request_timeout must"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parser.Parse([]byte(c.json))
			if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want code 67 and a sentence with %q", err, c.says)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	secret := file(t, "password", " secret\n", 0o600)
	c, err := parser.Parse([]byte(`{"endpoints": ["http://[::1]:2379/"], "user": "me", "password_file": "` + secret + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Password(); err != nil || got != "secret" {
		t.Errorf("password is %q, %v", got, err)
	}
	if conf, err := c.TLS(); conf != nil || err != nil {
		t.Errorf("a connection that is not encrypted has %v, %v", conf, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"endpoints": ["http://127.0.0.1:2379"], "ttl": 5}`))
	f.Add([]byte(`{"prefix": "/", "host": "a", "auto_disk_leases": true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parser.Parse(data)
		if err == nil && (len(c.Endpoints) == 0 || c.TTL < config.MinTTL || !strings.HasSuffix(c.Prefix, "/")) {
			t.Errorf("%q was read as %+v", data, c)
		}
		if err != nil && !verr.Is(err, verr.ConfigUnsupported) {
			t.Errorf("error %v has another code", err)
		}
	})
}
