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
