package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

// poolCommands tell the life of a pool and its volumes; FILE is a folder that is not there yet.
var poolCommands = []command{
	{name: "a pool is defined", args: "pool-define-as p dir --target FILE", want: `Pool p defined`},
	{name: "it is listed as inactive", args: "pool-list --inactive", want: `p\s+inactive\s+no`},
	{name: "without its folder it does not start", args: "pool-start p", want: `cannot open directory .*: no such file or directory`, fails: true},
	{name: "its folder is made", args: "pool-build p", want: `Pool p built`},
	{name: "it starts", args: "pool-start p", want: `Pool p started`},
	{name: "once", args: "pool-start p", want: `already active`, fails: true},
	{name: "it is to start with the host", args: "pool-autostart p", want: `marked as autostarted`},
	{name: "its info is complete", args: "pool-info p", want: `(?s)State: +running.*Persistent: +yes.*Autostart: +yes.*Capacity: +\d.*Available: +\d`},
	{name: "its XML has a size", args: "pool-dumpxml p", want: `<capacity unit='bytes'>\d{6,}</capacity>`},
	{name: "a raw volume is made", args: "vol-create-as p a.img 1M", want: `Vol a.img created`},
	{name: "but not twice", args: "vol-create-as p a.img 1M", want: `storage volume .*exists`, fails: true},
	{name: "nor with an odd name", args: "vol-create-as p ../x 1M", want: `is no name of a volume`, fails: true},
	{name: "a qcow2 volume is made", args: "vol-create-as p b.qcow2 4M --format qcow2", want: `Vol b.qcow2 created`},
	{name: "both are listed", args: "vol-list p --details", want: `(?s)a\.img.*file +1\.00 MiB +1\.00 MiB.*b\.qcow2.*file +4\.00 MiB`},
	{name: "a volume has a path", args: "vol-path a.img --pool p", want: `^FILE/a\.img`},
	{name: "and is found by it", args: "vol-pool FILE/a.img", want: `^p`},
	{name: "and has a key", args: "vol-key a.img --pool p", want: `^FILE/a\.img`},
	{name: "its XML tells its format", args: "vol-dumpxml b.qcow2 p", want: `<format type='qcow2'/>`},
	{name: "a volume is cloned", args: "vol-clone b.qcow2 c.qcow2 --pool p", want: `Vol c.qcow2 cloned`},
	{name: "and grows", args: "vol-resize c.qcow2 8M --pool p", want: `successfully changed`},
	{name: "and shrinks only if that is meant", args: "vol-resize c.qcow2 4M --pool p", want: `shrink`, fails: true},
	{name: "it has its new size", args: "vol-info c.qcow2 p", want: `Capacity: +8\.00 MiB`},
	{name: "a volume is wiped", args: "vol-wipe a.img p --algorithm dod", want: `Vol a.img wiped`},
	{name: "a volume is deleted", args: "vol-delete c.qcow2 p", want: `Vol c.qcow2 deleted`},
	{name: "and gone", args: "vol-info c.qcow2 p", want: `failed to get vol`, fails: true},
	{name: "the pool is refreshed", args: "pool-refresh p", want: `Pool p refreshed`},
	{name: "a pool in use is not undefined", args: "pool-undefine p", want: `still active`, fails: true},
	{name: "another pool over its folder is refused", args: "pool-define-as q dir --target FILE", want: `conflict with pool: 'p'`, fails: true},
	{name: "types of pools are told", args: "pool-capabilities", want: `<pool type='netfs' supported='yes'>`},
	{name: "the pool is stopped", args: "pool-destroy p", want: `Pool p destroyed`},
	{name: "its volumes are not seen then", args: "vol-list p", want: `not active`, fails: true},
	{name: "what is in its folder keeps it", args: "pool-delete p", want: `not empty`, fails: true},
	{name: "it is undefined", args: "pool-undefine p", want: `has been undefined`},
	{name: "and nobody finds it", args: "pool-info p", want: `failed to get pool`, fails: true},
	{name: "a transient pool is made", args: "pool-create-as t dir --target FILE", want: `Pool t created`},
	{name: "and has what is there", args: "vol-list t", want: `a\.img`},
	{name: "and ends without a trace", args: "pool-destroy t", want: `destroyed`},
}

func TestVirshStorage(t *testing.T) {
	need(t, "virsh", "qemu-img")
	h := startHost(t)
	dir := filepath.Join(t.TempDir(), "pool")
	commands := make([]command, len(poolCommands))
	for n, c := range poolCommands {
		c.want = strings.ReplaceAll(c.want, "FILE", dir)
		commands[n] = c
	}
	run(t, commands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, dir)
}

// secretCommands tell the life of a secret; FILE is its definition.
var secretCommands = []command{
	{name: "a secret is defined", args: "secret-define FILE", want: `Secret 12345678-0000-4000-8000-000000000001 created`},
	{name: "it is listed", args: "secret-list", want: `12345678-\S+ +ceph +pool`},
	{name: "it has no value", args: "secret-get-value 12345678-0000-4000-8000-000000000001", want: `does not have a value`, fails: true},
	{name: "it gets one", args: "secret-set-value 12345678-0000-4000-8000-000000000001 --base64 aGVsbG8=", want: `Secret value set`},
	{name: "and tells it", args: "secret-get-value 12345678-0000-4000-8000-000000000001", want: `^aGVsbG8=`},
	{name: "but not to those who only read", args: "-r secret-get-value 12345678-0000-4000-8000-000000000001", want: `forbidden`, fails: true},
	{name: "its XML has no value", args: "secret-dumpxml 12345678-0000-4000-8000-000000000001", want: `(?s)<usage type='ceph'>\s*<name>pool</name>\s*</usage>\s*</secret>`},
	{name: "it is undefined", args: "secret-undefine 12345678-0000-4000-8000-000000000001", want: `deleted`},
	{name: "and gone", args: "secret-dumpxml 12345678-0000-4000-8000-000000000001", want: `failed to get secret`, fails: true},
}

func TestVirshSecrets(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	file := write(t, "secret.xml", "<secret ephemeral='no' private='no'><uuid>12345678-0000-4000-8000-000000000001</uuid><usage type='ceph'><name>pool</name></usage></secret>")
	run(t, secretCommands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, file)
}

// TestVolumesGoUpAndDown holds that what is written to a volume is read from it, holes included.
func TestVolumesGoUpAndDown(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	dir := t.TempDir()
	virsh(t, h, qemuURI, "pool-create-as", "p", "dir", "--target", dir)
	sent, got := filepath.Join(t.TempDir(), "sent"), filepath.Join(t.TempDir(), "got")
	f, err := os.Create(sent)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	random := make([]byte, 3<<20)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 20 << 20, size - int64(len(random))} {
		if _, err := f.WriteAt(random, at); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(sent)
	if err != nil {
		t.Fatal(err)
	}
	for _, sparse := range []bool{false, true} {
		name := fmt.Sprint("v-", sparse)
		var how []string
		if sparse {
			how = []string{"--sparse"}
		}
		virsh(t, h, qemuURI, "vol-create-as", "p", name, "64M", "--allocation", "0")
		virsh(t, h, qemuURI, append([]string{"vol-upload", name, sent, "--pool", "p"}, how...)...)
		virsh(t, h, qemuURI, append([]string{"vol-download", name, got, "--pool", "p"}, how...)...)
		back, err := os.ReadFile(got)
		if err != nil || !bytes.Equal(back, want) {
			t.Errorf("sparse %v: %d bytes came back changed, error %v", sparse, len(back), err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || sparse && st.Blocks*512 > size/2 {
			t.Errorf("sparse %v: the volume takes %d bytes on the disk, error %v", sparse, st.Blocks*512, err)
		}
	}
}

// storageChange is a change of a pool's folder that a killed driver must have made, or not.
type storageChange struct {
	args []string
	// name of the volume that it is about; there says that it is there if the change was made.
	name  string
	there bool
}

// TestStorageDriverIsKilled kills the driver at random moments of everything that it does. Afterwards each volume is as before, or as
// asked, and nothing half made is left.
func TestStorageDriverIsKilled(t *testing.T) {
	need(t, "virsh", "qemu-img")
	h := startHost(t)
	dir := t.TempDir()
	virsh(t, h, qemuURI, "pool-define-as", "p", "dir", "--target", dir)
	virsh(t, h, qemuURI, "pool-start", "p")
	virsh(t, h, qemuURI, "vol-create-as", "p", "base", "32M")
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	changes := func(n int) storageChange {
		name := fmt.Sprint("v", n)
		switch n % 5 {
		case 0:
			return storageChange{[]string{"vol-create-as", "p", name, "8M"}, name, true}
		case 1:
			return storageChange{[]string{"vol-create-as", "p", name, "8M", "--format", "qcow2"}, name, true}
		case 2:
			return storageChange{[]string{"vol-clone", "base", name, "--pool", "p"}, name, true}
		case 3:
			return storageChange{[]string{"pool-refresh", "p"}, "base", true}
		}
		name = fmt.Sprint("v", n-4)
		return storageChange{[]string{"vol-delete", name, "p"}, name, false}
	}
	for n := range 50 {
		c := changes(n)
		before := exists(t, dir, c.name)
		done := make(chan error, 1)
		go func() {
			_, err := h.Virsh(t.Context(), qemuURI, c.args...)
			done <- err
		}()
		time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
		killPlugin(t, h, "lodge-plugin-local")
		var err error
		for waiting := true; waiting; { // as soon as it is seen to be gone, it is wanted back without a pause
			select {
			case err = <-done:
				waiting = false
			case <-time.After(50 * time.Millisecond):
			}
			if err := h.ResetPlugin(t.Context(), "local"); err != nil {
				t.Fatal(err)
			}
		}
		virsh(t, h, qemuURI, "pool-refresh", "p")
		after := exists(t, dir, c.name)
		if err == nil && after != c.there || err != nil && after != before && after != c.there {
			t.Errorf("%v: volume was there %v, is there %v, error %v", c.args, before, after, err)
		}
		listed := strings.Contains(virsh(t, h, qemuURI, "vol-list", "p")+"\n", dir+"/"+c.name+"\n")
		if listed != after {
			t.Errorf("%v: volume is listed %v, is there %v", c.args, listed, after)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".lodge-*")); err != nil || len(left) > 0 {
			t.Errorf("%v left %q, error %v", c.args, left, err)
		}
	}
}

func exists(t *testing.T, dir, name string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// killPlugin kills the process of one plugin, if there is one.
func killPlugin(t *testing.T, h *rig.Host, name string) {
	t.Helper()
	all, err := rig.Processes(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Name != name {
			continue
		}
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
