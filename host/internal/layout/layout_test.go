package layout

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSessionFollowsTheXDGFolders(t *testing.T) {
	env := map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_CONFIG_HOME": "relative"}
	l, err := Session(func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		l.Libvirt(): "/run/user/7/libvirt/libvirt-sock", l.Admin(): "/run/user/7/lodge/lodge.sock",
		l.Catalog(): "/home/u/.local/share/lodge/catalog.db", l.Conf: "/home/u/.config/lodge",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if _, err := Session(func(string) string { return "" }); err == nil {
		t.Error("a session without a home has folders")
	}
}

func TestMake(t *testing.T) {
	dir := t.TempDir()
	if err := Under(filepath.Join(dir, "host")).Make(); err != nil {
		t.Fatal(err)
	}
	long := Under(filepath.Join(dir, strings.Repeat("x", maxSocketPath)))
	if err := long.Make(); err == nil || !strings.Contains(err.Error(), "choose a shorter folder") {
		t.Fatalf("a folder whose sockets would have too long a path: %v", err)
	}
}
