package packaging

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds each program that a test runs.
const patience = time.Minute

// installed is an installation under a folder.
type installed struct{ root, prefix string }

// install runs scripts/install. The prefix is a link, so that the paths in the installed files lead somewhere.
func install(t *testing.T) installed {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(top, "bin/lodge-lockd")); err != nil {
		t.Skip("nothing is built: run make build")
	}
	// Paths of sockets are short.
	dir, err := os.MkdirTemp("", "install")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	i := installed{root: filepath.Join(dir, "root"), prefix: filepath.Join(dir, "prefix")}
	if out, err := i.run(t, filepath.Join(top, "scripts/install")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Symlink(i.root+i.prefix, i.prefix); err != nil {
		t.Fatal(err)
	}
	return i
}

// run runs a program that knows where the installation is.
func (i installed) run(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "DESTDIR="+i.root, "PREFIX="+i.prefix, "SYSTEMD_UNIT_PATH="+filepath.Join(i.prefix, "lib/systemd/system")+":")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestInstallAndRemoveLeaveOnlyConfiguration(t *testing.T) {
	i := install(t)
	for _, path := range []string{
		"etc/init.d/lodge-lockd", "etc/init.d/lodged", "etc/default/lodge-lockd", "etc/lodge/lodge.toml",
		i.prefix + "/sbin/lodge-lockd", i.prefix + "/lib/lodge/virtlockd", i.prefix + "/lib/systemd/system/lodge-lockd.socket",
		i.prefix + "/share/man/man8/lodge-lockd.8",
	} {
		text, err := os.ReadFile(filepath.Join(i.root, path))
		if err != nil || strings.Contains(path, "etc/") && strings.Contains(string(text), "@SBINDIR@") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if out, err := i.run(t, "../../scripts/install", "--remove"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	err := filepath.WalkDir(i.root, func(path string, e fs.DirEntry, err error) error {
		rest := strings.TrimPrefix(path, i.root)
		if err == nil && !e.IsDir() && rest != "/etc/lodge/lodge.toml" && rest != "/etc/default/lodge-lockd" {
			t.Errorf("%s is left", rest)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSystemdReadsTheUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd is not installed")
	}
	i := install(t)
	units := filepath.Join(i.prefix, "lib/systemd/system")
	// The drop-in for the distribution's virtlockd is read together with units like those.
	distribution := map[string]string{
		"virtlockd.service":              "[Service]\nExecStart=/bin/true\nExecReload=/bin/kill -USR1 $MAINPID\n",
		"virtlockd.socket":               "[Socket]\nListenStream=/run/libvirt/virtlockd-sock\n",
		"virtlockd-admin.socket":         "[Socket]\nListenStream=/run/libvirt/virtlockd-admin-sock\nService=virtlockd.service\n",
		"virtlockd.service.d/lodge.conf": "",
	}
	for name, text := range distribution {
		path := filepath.Join(units, name)
		if text == "" {
			dropIn, err := os.ReadFile(filepath.Join(i.prefix, "lib/lodge/virtlockd-lodge.conf"))
			if err := errors.Join(err, os.Mkdir(filepath.Dir(path), 0o755)); err != nil {
				t.Fatal(err)
			}
			text = string(dropIn)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"lodge-lockd.service", "lodge-lockd.socket", "lodge-lockd-admin.socket", "lodged.service", "virtlockd.service",
	} {
		out, err := i.run(t, "systemd-analyze", "verify", "--man=no", filepath.Join(units, name))
		if err != nil || strings.Contains(out, i.prefix) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// story is what the init script is asked, and what it ends with. The shell has the functions ask, and pid for the daemon's number.
const story = `
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log || exit 1
root=$0
prefix=$1
ask() { "$root/etc/init.d/lodge-lockd" "$1" >/dev/null 2>/run/said; echo "$1 $?"; cat /run/said; }
pid() { cat /run/lodge/lockd.pid; }
ask status
ask stop
ask start
ask start
ask status
first=$(pid)
cp "$prefix/sbin/lodge-lockd" "$prefix/sbin/new" && mv "$prefix/sbin/new" "$prefix/sbin/lodge-lockd"
readlink "/proc/$first/exe" | sed 's/.*lodge-lockd/it runs lodge-lockd/'
ask reload
n=0
while [ $n -lt 100 ] && readlink "/proc/$first/exe" | grep -q deleted; do sleep 0.1; n=$((n + 1)); done
readlink "/proc/$first/exe" | sed 's/.*lodge-lockd/it runs lodge-lockd/'
ask status
[ "$(pid)" = "$first" ] && echo 'the same process goes on'
[ -S /run/libvirt/virtlockd-sock ] && [ -S /run/libvirt/virtlockd-admin-sock ] && echo 'it serves'
ask restart
[ "$(pid)" = "$first" ] || echo 'another process has begun'
kill -KILL "$(pid)"
while readlink "/proc/$(pid)/exe" >/dev/null; do sleep 0.05; done
ask status
ask reload
ask start
ask try-restart
ask stop
ask status
ask try-restart
ask nonsense
`

// told is what the story has to come to. Codes are those of the Linux Standard Base for init scripts.
const told = `status 3
stop 0
start 0
start 0
status 0
it runs lodge-lockd (deleted)
reload 0
it runs lodge-lockd
status 0
the same process goes on
it serves
restart 0
another process has begun
status 1
reload 7
start 0
try-restart 0
stop 0
status 3
try-restart 0
`

func TestInitScriptOfTheLockDaemon(t *testing.T) {
	if testing.Short() {
		t.Skip("starts daemons")
	}
	if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs unshare and root to make a mount namespace")
	}
	i := install(t)
	out, err := i.run(t, "unshare", "--mount", "--propagation", "private", "sh", "-c", story, i.root, i.prefix)
	if err != nil {
		t.Error(err)
	}
	rest, ok := strings.CutPrefix(out, told)
	if !ok || !strings.HasPrefix(rest, "nonsense 2\nusage: ") {
		t.Errorf("the script says\n%s\nwant\n%snonsense 2", out, told)
	}
}
