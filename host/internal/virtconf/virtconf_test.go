package virtconf_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/virtconf"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// short is a file's text for a message.
func short(text string) string {
	if len(text) > 60 {
		text = text[:60] + "..."
	}
	return strconv.Quote(text)
}

func TestFilesThatVirtlockdAcceptsAreAccepted(t *testing.T) {
	for _, text := range append(accepted(), blankFile) {
		if _, err := virtconf.LoadLockd(write(t, text), true); err != nil {
			t.Errorf("%s: %v", short(text), err)
		}
	}
}

func TestFilesThatVirtlockdRefusesAreRefusedWithTheirLine(t *testing.T) {
	cases := refused()
	cases[nulFile] = 1
	cases["a = "+strings.Repeat("[", 1000)] = 1
	for text, line := range cases {
		path := write(t, text)
		_, err := virtconf.LoadLockd(path, true)
		place := path + ":"
		if line > 0 {
			place += strconv.Itoa(line) + ":"
		}
		if err == nil || !strings.HasPrefix(err.Error(), place) {
			t.Errorf("%s: error %v, want one that begins with %s", short(text), err, place)
		}
	}
}

func TestVirtlockdJudgesFilesAlike(t *testing.T) {
	virtlockdtest.Need(t)
	judge := func(text string, want bool) {
		t.Helper()
		d := virtlockdtest.Start(t, "-f", write(t, text))
		got := d.Running()
		if _, stderr := d.Stop(t); got != want {
			t.Errorf("%s: virtlockd accepts it: %v, want %v: %s", short(text), got, want, stderr)
		}
	}
	for _, text := range accepted() {
		judge(text, true)
	}
	for text := range refused() {
		judge(text, false)
	}
	judge(blankFile, false)
	judge(nulFile, true)
}

func TestSettings(t *testing.T) {
	got, err := virtconf.LoadLockd(write(t, `
log_level = 2
log_filters='1:a 2:b'; log_outputs = """1:stderr
3:journald"""
max_clients = +20
max_clients = 30
admin_max_clients = 7
max_client = 1
`), true)
	if err != nil {
		t.Fatal(err)
	}
	if got.LogLevel != 2 || got.LogFilters != "1:a 2:b" || got.LogOutputs != "1:stderr\n3:journald" || got.MaxClients != 20 || got.AdminMaxClients != 7 {
		t.Errorf("settings %+v", got)
	}
	if len(got.Warnings) != 2 || !strings.Contains(got.Warnings[0], ":6: max_clients") || !strings.Contains(got.Warnings[1], ":8: max_client ") {
		t.Errorf("warnings %q", got.Warnings)
	}
	if err := got.At("log_outputs", fs.ErrInvalid); !strings.Contains(err.Error(), "x.conf:3: log_outputs: ") || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("place of an error: %v", err)
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	got, err := virtconf.LoadLockd(path, false)
	if err != nil || got.MaxClients != 1024 || got.AdminMaxClients != 5000 || got.LogLevel != 0 {
		t.Errorf("without a file: %+v, error %v", got, err)
	}
	if got.At("log_outputs", nil) != nil {
		t.Error("no error became one")
	}
	if _, err := virtconf.LoadLockd(path, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was asked for is missing: %v", err)
	}
	if _, err := virtconf.LoadQEMULockd(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("qemu-lockd.conf is missing: %v", err)
	}
}

func TestQEMULockd(t *testing.T) {
	for text, want := range map[string]virtconf.QEMULockd{
		"":                       {AutoDiskLeases: true},
		"auto_disk_leases = 0\n": {RequireLeaseForDisks: true},
		"auto_disk_leases = 0\nrequire_lease_for_disks = 0\n": {},
		"require_lease_for_disks = 1\nfile_lockspace_dir = \"/f\"\nlvm_lockspace_dir = \"/l\"\nscsi_lockspace_dir = \"/s\"\n": {
			AutoDiskLeases: true, RequireLeaseForDisks: true, FileLockspaceDir: "/f", LVMLockspaceDir: "/l", SCSILockspaceDir: "/s",
		},
	} {
		got, err := virtconf.LoadQEMULockd(write(t, text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, error %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"auto_disk_leases = 2\n", "auto_disk_leases = -1\n", "auto_disk_leases = \"1\"\n", "require_lease_for_disks = [ 1 ]\n",
		"file_lockspace_dir = 1\n", "x",
	} {
		if got, err := virtconf.LoadQEMULockd(write(t, text)); err == nil || !strings.Contains(err.Error(), "x.conf:1: ") {
			t.Errorf("%q: %+v, error %v", text, got, err)
		}
	}
}

// TestShippedFiles reads the files that Debian ships, where they are.
func TestShippedFiles(t *testing.T) {
	found := false
	if l, err := virtconf.LoadLockd("/etc/libvirt/virtlockd.conf", true); err == nil {
		found = true
		if len(l.Warnings) > 0 {
			t.Errorf("warnings %q", l.Warnings)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := virtconf.LoadQEMULockd("/etc/libvirt/qemu-lockd.conf"); err == nil {
		found = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if !found {
		t.Skip("libvirt's configuration is not installed")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range accepted() {
		f.Add([]byte(text))
	}
	for text := range refused() {
		if len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := virtconf.Parse("x", data)
		if err != nil {
			if !errors.Is(err, virtconf.ErrSyntax) || !strings.HasPrefix(err.Error(), "x:") {
				t.Fatalf("error %v", err)
			}
			return
		}
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		for _, a := range file.Assignments {
			if a.Name == "" || a.Value.Kind == 0 || a.Line < 1 || a.Line > lines {
				t.Fatalf("assignment %+v of %q", a, data)
			}
			var n uint32
			var text string
			var yes bool
			_ = errors.Join(file.Uint(a.Name, &n), file.Text(a.Name, &text), file.Bool(a.Name, &yes))
		}
	})
}
