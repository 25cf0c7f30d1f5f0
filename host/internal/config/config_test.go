package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	tests := map[string]struct {
		text string
		want string // part of the error
	}{
		"an empty file is the default":          {"", ""},
		"a known key is taken":                  {"[limits]\nmax_clients = 7\n", ""},
		"an unknown key names file and line":    {"log_level = 'info'\n[limits]\nmax_cleints = 7\n", "lodge.toml:3: unknown key [limits max_cleints]"},
		"a wrong type names line and column":    {"[limits]\nmax_clients = 'x'\n", "lodge.toml:2:"},
		"broken TOML names the line":            {"log_level = \n", "lodge.toml:1:"},
		"a number out of range names the range": {"[limits]\nmax_clients = 0\n", "max_clients is 0: use 1 to 100000"},
		"an unknown level":                      {"log_level = 'loud'\n", `log_level "loud"`},
		"a relative folder":                     {"[plugins]\ndirs = ['x']\n", `folder "x": use an absolute path`},
		"a file that is too large":              {strings.Repeat("#", maxFile+1), "at most 1048576 are allowed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lodge.toml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path, true)
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	if c, err := Load(path, false); err != nil || c.Limits.MaxClients != 5000 {
		t.Fatalf("default: %+v, %v", c, err)
	}
	if _, err := Load(path, true); err == nil {
		t.Fatal("a file that somebody named may not be missing")
	}
}

func TestLocksAreTakenOverFromLibvirt(t *testing.T) {
	theirs := filepath.Join(t.TempDir(), "qemu-lockd.conf")
	text := "auto_disk_leases = 0\nfile_lockspace_dir = \"/theirs/files\"\nlvm_lockspace_dir = \"/theirs/lvm\"\n"
	if err := os.WriteFile(theirs, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lodge.toml")
	for own, want := range map[string]Locks{
		"":                          {Disks: false, FileLockspace: "/theirs/files", LVMLockspace: "/theirs/lvm"},
		"auto_disk_leases = true\n": {Disks: true, FileLockspace: "/theirs/files", LVMLockspace: "/theirs/lvm"},
		"file_lockspace_dir = \"/ours\"\nscsi_lockspace_dir = \"/scsi\"\n": {FileLockspace: "/ours", LVMLockspace: "/theirs/lvm", SCSILockspace: "/scsi"},
	} {
		if err := os.WriteFile(path, []byte("[locks]\nfrom = \""+theirs+"\"\n"+own), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path, true)
		if err != nil {
			t.Fatal(err)
		}
		want.Manager, want.From, want.Require = BuiltInManager, theirs, c.Locks.Require
		if c.Locks != want || c.Locks.Require == nil || !*c.Locks.Require {
			t.Errorf("with %q locks are %+v, want %+v", own, c.Locks, want)
		}
	}
	if err := os.WriteFile(path, []byte("[locks]\nfrom = \"/nowhere/qemu-lockd.conf\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, true); err == nil || !strings.Contains(err.Error(), "/nowhere/qemu-lockd.conf") {
		t.Errorf("a file that is not there: %v", err)
	}
}
