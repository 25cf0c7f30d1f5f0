package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

const good = `name = "test"
version = "1.0.0"
binary = "lodge-plugin-test"
kind = "hypervisor"
protocol = [1]
schemes = ["test"]
connections = ["default"]
type = "Test"
error_domain = 12
idle_timeout = "10m"

[limits]
open_files = 65536
`

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestReadFillsInWhatIsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.toml")
	write(t, path, good, 0o644)
	m, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Inventory != InventoryCore || m.Binary != filepath.Join(filepath.Dir(path), "lodge-plugin-test") || m.File != path {
		t.Errorf("manifest is %+v", m)
	}
	if time.Duration(m.IdleTimeout) != 10*time.Minute || m.Limits.OpenFiles != 65536 {
		t.Errorf("manifest is %+v", m)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown key, with its line", `kind =`, "kid = \"x\"\nkind =", `test.toml:4: unknown key "kid"`},
		{"an unknown key in a table", "open_files", "open_file", `test.toml:13: unknown key "limits.open_file"`},
		{"broken TOML, with its line", `type = "Test"`, `type = "Test`, "test.toml:8:"},
		{"a wrong type, with its line", `protocol = [1]`, `protocol = "1"`, "test.toml:5:"},
		{"a name that is not the file's", `name = "test"`, `name = "other"`, `name is "other"`},
		{"a name with a slash", `name = "test"`, `name = "../x"`, "name must be"},
		{"a binary elsewhere", `"lodge-plugin-test"`, `"../lodge-plugin-test"`, "binary must be"},
		{"an unknown kind", `"hypervisor"`, `"coffee"`, "kind must be"},
		{"storage without types of pools", `"hypervisor"`, `"storage"`, "pool_types must"},
		{"no protocol", `protocol = [1]`, `protocol = []`, "protocol must"},
		{"no scheme", `schemes = ["test"]`, `schemes = []`, "schemes must"},
		{"a connection with a slash", `["default"]`, `["a/b"]`, "connections"},
		{"an error domain that libvirt does not have", `error_domain = 12`, `error_domain = 73`, "error_domain"},
		{"a checksum that is none", `type = "Test"`, "type = \"Test\"\nsha256 = \"abc\"", "sha256 must"},
		{"a negative time", `"10m"`, `"-10m"`, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatal("the test changes nothing")
			}
			path := filepath.Join(t.TempDir(), "test.toml")
			write(t, path, text, 0o644)
			_, err := Read(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "test.toml") {
				t.Errorf("error is %v, expected %q", err, c.want)
			}
		})
	}
}

func TestReadDirLeavesOutWhatIsWrongAndTells(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "test.toml"), good, 0o644)
	write(t, filepath.Join(dir, "wrong.toml"), "x", 0o644)
	write(t, filepath.Join(dir, "lodge-plugin-test"), "#!/bin/sh\ntouch executed\n", 0o755)
	all, err := ReadDir(dir)
	if len(all) != 1 || all[0].Name != "test" || err == nil || !strings.Contains(err.Error(), "wrong.toml") {
		t.Errorf("read %v, %v", all, err)
	}
	if none, err := ReadDir(filepath.Join(dir, "missing")); len(none) != 0 || err != nil {
		t.Errorf("a missing folder gave %v, %v", none, err)
	}
}

func TestFilesThatOthersMayChangeAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the mode matters for root only")
	}
	path := filepath.Join(t.TempDir(), "test.toml")
	write(t, path, good, 0o666)
	if _, err := Read(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a file with mode 0666 gave %v", err)
	}
	write(t, path, good, 0o644)
	if err := os.Chown(path, 1, 1); err != nil {
		t.Skip("owner cannot be changed here")
	}
	if _, err := Read(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a file of user 1 gave %v", err)
	}
}

func TestBinaryIsCheckedBeforeItIsUsed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "plugin")
	write(t, path, "hello", 0o755)
	const sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of "hello"
	m := &Manifest{Name: "test", Binary: path, SHA256: sum}
	f, err := m.OpenBinary("")
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := m.OpenBinary(strings.Repeat("0", 64)); !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), sum) {
		t.Errorf("the operator's pin gave %v", err)
	}
	m.SHA256 = strings.Repeat("0", 64)
	if f, err := m.OpenBinary(sum); err != nil {
		t.Errorf("the operator's pin does not go before the manifest's: %v", err)
	} else {
		_ = f.Close()
	}
	write(t, path, "hello", 0o644)
	if _, err := m.OpenBinary(sum); err == nil {
		t.Error("a file that is not executable was accepted")
	}
	m.Binary = dir
	if _, err := m.OpenBinary(""); err == nil {
		t.Error("a folder was accepted")
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	if s, err := ReadSettings(dir, "test"); err != nil || s.Disabled {
		t.Errorf("without a file: %+v, %v", s, err)
	}
	write(t, filepath.Join(dir, "test.toml"), "disabled = true\nlog_level = \"debug\"\n[config]\nmachine = \"q35\"\n", 0o644)
	s, err := ReadSettings(dir, "test")
	if err != nil || !s.Disabled || s.LogLevel != "debug" || s.Config["machine"] != "q35" {
		t.Errorf("settings are %+v, %v", s, err)
	}
	write(t, filepath.Join(dir, "test.toml"), "log_level = \"loud\"\n", 0o644)
	if _, err := ReadSettings(dir, "test"); err == nil {
		t.Error("an unknown level was accepted")
	}
}

func TestConfigIsCheckedAgainstTheKeysOfThePlugin(t *testing.T) {
	keys := []*basev1.ConfigKey{
		{Name: "machine", Kind: basev1.ValueKind_VALUE_KIND_STRING},
		{Name: "ports", Kind: basev1.ValueKind_VALUE_KIND_INTEGER},
		{Name: "paths", Kind: basev1.ValueKind_VALUE_KIND_STRINGS},
		{Name: "kvm", Kind: basev1.ValueKind_VALUE_KIND_BOOLEAN},
		{Name: "hosts", Kind: basev1.ValueKind_VALUE_KIND_TABLES},
	}
	for _, c := range []struct {
		name   string
		config map[string]any
		want   string // JSON, or part of an error
		fails  bool
	}{
		{"nothing", nil, "{}", false},
		{
			"all kinds",
			map[string]any{"machine": "pc", "ports": int64(1), "paths": []any{"a"}, "kvm": true},
			`{"kvm":true,"machine":"pc","paths":["a"],"ports":1}`, false,
		},
		{"an unknown key", map[string]any{"machin": "pc"}, `unknown key "machin"`, true},
		{"a wrong kind", map[string]any{"ports": "1"}, `key "ports" must be an integer`, true},
		{"a mixed array", map[string]any{"paths": []any{"a", int64(1)}}, "array of strings", true},
		{"a table", map[string]any{"machine": map[string]any{}}, "must be a string", true},
		{
			"tables by name",
			map[string]any{"hosts": map[string]any{"lab": map[string]any{"address": "a", "verify": false}}},
			`{"hosts":{"lab":{"address":"a","verify":false}}}`, false,
		},
		{"a value in the place of a table", map[string]any{"hosts": map[string]any{"lab": "a"}}, "must be tables by name", true},
		{
			"tables in tables",
			map[string]any{"hosts": map[string]any{"lab": map[string]any{"x": map[string]any{}}}},
			"must be tables by name", true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := EncodeConfig(c.config, keys)
			if c.fails != (err != nil) || (err != nil && !strings.Contains(err.Error(), c.want)) || (err == nil && string(data) != c.want) {
				t.Errorf("got %s, %v; expected %s", data, err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("name = 1")
	f.Add("[limits]\nopen_files = -1")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parse("/x/test.toml", []byte(text))
		if err == nil && (!filepath.IsAbs(m.Binary) || m.Name == "" || len(m.Protocol) == 0) {
			t.Errorf("accepted %+v", m)
		}
		if _, err := parseSettings("/x/test.toml", []byte(text)); err != nil && !strings.Contains(err.Error(), "test.toml") {
			t.Errorf("error without a file: %v", err)
		}
	})
}

func TestLockManagerNeedsNoScheme(t *testing.T) {
	const text = "name = \"etcd\"\nversion = \"1.0.0\"\nbinary = \"lodge-plugin-etcd\"\nkind = \"lock\"\nprotocol = [1]\n"
	path := filepath.Join(t.TempDir(), "etcd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Read(path)
	if err != nil || m.Kind != KindLock || len(m.Schemes) != 0 {
		t.Errorf("manifest is %+v, error %v", m, err)
	}
}
