package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/cephtest"
	"github.com/lodgevirt/lodge/tests/rig"
)

// rbdUsage is the usage of the secret that has the key, rbdSecret its UUID.
const (
	rbdUsage  = "the small Ceph"
	rbdSecret = "12345678-0000-4000-8000-000000000002"
)

// rbdCommands tell the life of a pool on Ceph; FILE is a folder with "secret.xml", "pool.xml" and "sent", 10 MiB of content, and KEY the user's key.
var rbdCommands = []command{
	{name: "the driver is there", args: "pool-capabilities", want: `<pool type='rbd' supported='yes'>`},
	{name: "a pool is defined", args: "pool-define FILE/pool.xml", want: `Pool p defined`},
	{name: "without its secret it does not start", args: "pool-start p", want: `secret`, fails: true},
	{name: "the secret is defined", args: "secret-define FILE/secret.xml", want: `created`},
	{name: "and gets its value", args: "secret-set-value " + rbdSecret + " --base64 KEY", want: `Secret value set`},
	{name: "the pool starts", args: "pool-start p", want: `Pool p started`},
	{name: "its info is complete", args: "pool-info p", want: `(?s)State: +running.*Capacity: +\d.*Available: +\d`},
	{name: "its XML names the secret and no key", args: "pool-dumpxml p", want: `(?s)<auth type='ceph' username='libvirt'>\s*<secret usage='the small Ceph'/>`},
	{name: "a volume is made", args: "vol-create-as p disk 10M", want: `Vol disk created`},
	{name: "once", args: "vol-create-as p disk 10M", want: `storage volume .*exists`, fails: true},
	{name: "no other format is made", args: "vol-create-as p q 10M --format qcow2", want: `cannot be made`, fails: true},
	{name: "nor a name that Ceph reads as a snapshot", args: "vol-create-as p a@b 10M", want: `is no name of`, fails: true},
	{name: "it is listed", args: "vol-list p --details", want: `disk +rbd/disk +network +10\.00 MiB +0\.00 B`},
	{name: "it is found by its path", args: "vol-pool rbd/disk", want: `^p`},
	{name: "content goes up", args: "vol-upload disk FILE/sent --pool p", want: ``},
	{name: "content comes down", args: "vol-download disk FILE/got --pool p", want: ``},
	{name: "and with holes", args: "vol-download disk FILE/sparse --pool p --sparse", want: ``},
	{name: "its allocation is known", args: "vol-info disk p", want: `Capacity: +10\.00 MiB`},
	{name: "it is cloned", args: "vol-clone disk copy --pool p", want: `Vol copy cloned`},
	{name: "the clone has the content", args: "vol-download copy FILE/cloned --pool p", want: ``},
	{name: "what has a clone stays, and says so", args: "vol-delete disk p", want: `has clones, which need it: rbd/copy`, fails: true},
	{name: "the clone grows", args: "vol-resize copy 12M --pool p", want: `successfully changed`},
	{name: "and shrinks only if that is meant", args: "vol-resize copy 4M --pool p", want: `shrink`, fails: true},
	{name: "and then does", args: "vol-resize copy 4M --pool p --shrink", want: `successfully changed`},
	{name: "it has its new size", args: "vol-info copy p", want: `Capacity: +4\.00 MiB`},
	{name: "a volume is wiped", args: "vol-wipe copy p", want: `Vol copy wiped`},
	{name: "the clone is deleted", args: "vol-delete copy p", want: `Vol copy deleted`},
	{name: "and then what it was made of", args: "vol-delete disk p", want: `Vol disk deleted`},
	{name: "the pool is refreshed", args: "pool-refresh p", want: `Pool p refreshed`},
	{name: "and empty", args: "vol-list p", want: `(?s)^ Name +Path\s+-+\s*$`},
	{name: "the same Ceph pool again is refused", args: "pool-define FILE/again.xml", want: `conflict with pool: 'p'`, fails: true},
	{name: "it is stopped", args: "pool-destroy p", want: `Pool p destroyed`},
	{name: "and undefined", args: "pool-undefine p", want: `has been undefined`},
}

// startCeph starts a Ceph for a test, or skips it.
func startCeph(t *testing.T) *cephtest.Cluster {
	t.Helper()
	need(t, "virsh")
	if p := cephtest.Missing(); p != "" {
		t.Skipf("%s is not installed: no Ceph to test with (make deps)", p)
	}
	if testing.Short() {
		t.Skip("starts a Ceph")
	}
	dir, err := os.MkdirTemp("", "ceph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c, err := cephtest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// rbdHost starts a host whose driver can use Ceph, or skips the test.
func rbdHost(t *testing.T) *rig.Host {
	t.Helper()
	h := startHost(t)
	if caps := virsh(t, h, qemuURI, "pool-capabilities"); !strings.Contains(caps, "<pool type='rbd' supported='yes'>") {
		t.Skip("the driver was built without Ceph's libraries (make deps build)")
	}
	return h
}

// rbdFiles writes the definitions of a secret and of pools on a Ceph into a folder.
func rbdFiles(t *testing.T, c *cephtest.Cluster, dir string) {
	t.Helper()
	pool := "<pool type='rbd'><name>%s</name>" + c.Source(cephtest.Pool, cephtest.User, rbdUsage) + "</pool>"
	for name, text := range map[string]string{
		"secret.xml": "<secret><uuid>" + rbdSecret + "</uuid><usage type='ceph'><name>" + rbdUsage + "</name></usage></secret>",
		"pool.xml":   fmt.Sprintf(pool, "p"),
		"again.xml":  fmt.Sprintf(pool, "q"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVirshRBD(t *testing.T) {
	c := startCeph(t)
	h := rbdHost(t)
	dir := t.TempDir()
	rbdFiles(t, c, dir)
	sent := make([]byte, 10<<20)
	_, _ = rand.Read(sent[4<<20 : 5<<20])
	if err := os.WriteFile(filepath.Join(dir, "sent"), sent, 0o600); err != nil {
		t.Fatal(err)
	}
	commands := make([]command, len(rbdCommands))
	for n, cmd := range rbdCommands {
		cmd.args = strings.ReplaceAll(cmd.args, "KEY", c.Key)
		commands[n] = cmd
	}
	run(t, commands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, dir)
	for _, name := range []string{"got", "sparse", "cloned"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: %d bytes came back changed, error %v", name, len(got), err)
		}
	}
}

// TestAStoppedCephDelaysNoList stops all daemons of a Ceph and holds that what the core knows is told at once, also while a refresh waits.
func TestAStoppedCephDelaysNoList(t *testing.T) {
	c := startCeph(t)
	h := rbdHost(t)
	dir := t.TempDir()
	rbdFiles(t, c, dir)
	virsh(t, h, qemuURI, "secret-define", filepath.Join(dir, "secret.xml"))
	virsh(t, h, qemuURI, "secret-set-value", rbdSecret, "--base64", c.Key)
	virsh(t, h, qemuURI, "pool-define", filepath.Join(dir, "pool.xml"))
	virsh(t, h, qemuURI, "pool-start", "p")
	virsh(t, h, qemuURI, "vol-create-as", "p", "disk", "10M")
	virsh(t, h, qemuURI, "pool-create-as", "other", "dir", "--target", dir)
	if err := c.Pause("mon", "osd", "mgr"); err != nil {
		t.Fatal(err)
	}
	refreshed := make(chan error, 1)
	go func() {
		cmd := exec.CommandContext(t.Context(), "virsh", "-c", h.URI(qemuURI), "pool-refresh", "p")
		refreshed <- cmd.Run()
	}()
	time.Sleep(200 * time.Millisecond)
	for _, question := range [][]string{{"pool-list", "--all"}, {"vol-list", "p"}, {"vol-info", "disk", "p"}, {"pool-refresh", "other"}} {
		begun := time.Now()
		virsh(t, h, qemuURI, question...)
		took := time.Since(begun)
		t.Logf("%v: %v", question, took.Round(time.Millisecond))
		if took > 3*time.Second { // the libraries' own timeouts are ten times that
			t.Errorf("%v took %v while Ceph was stopped", question, took)
		}
	}
	if err := c.Resume("mon", "osd", "mgr"); err != nil {
		t.Fatal(err)
	}
	if err := <-refreshed; err != nil {
		t.Logf("the refresh that had to wait: %v", err)
	}
	eventually(t, time.Minute, func() error {
		_, err := h.Virsh(t.Context(), qemuURI, "pool-refresh", "p")
		return err
	})
}
