package driver

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// ceph is a cluster of one monitor and one store in memory, on this machine alone. It has the pool "rbd" with the image "image" of 4 MiB,
// and the user "guest".
type ceph struct {
	t    testing.TB
	dir  string
	port string
	// key is the user's.
	key []byte
}

const cephConf = `[global]
mon host = [v1:127.0.0.1:PORT]
ms bind msgr2 = false
ms bind ipv6 = false
public network = 127.0.0.0/8
keyring = DIR/keyring
admin socket = DIR/$name.asok
run dir = DIR
log file = DIR/$name.log
mon cluster log file = DIR/cluster.log
crash dir = DIR
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg autoscale mode = off
mon data avail warn = 1
mon data avail crit = 0
auth allow insecure global id reclaim = false
[mon.a]
mon data = DIR/mon
[osd.0]
osd data = DIR/osd
osd objectstore = memstore
memstore device bytes = 1073741824
`

func newCeph(t testing.TB) *ceph {
	t.Helper()
	for _, name := range []string{"ceph-mon", "ceph-osd", "ceph", "rbd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip("no " + name)
		}
	}
	if modules, _ := filepath.Glob("/usr/lib/*/qemu/block-rbd.so"); len(modules) == 0 {
		t.Skip("QEMU has no RBD: install qemu-block-extra")
	}
	c := &ceph{t: t, dir: t.TempDir(), port: freePort(t)}
	conf := strings.NewReplacer("DIR", c.dir, "PORT", c.port).Replace(cephConf)
	if err := os.WriteFile(c.path("ceph.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	c.monitor()
	c.store()
	c.run("ceph", "osd", "pool", "create", "rbd", "8")
	c.run("rbd", "pool", "init", "rbd")
	c.run("rbd", "create", "--size", "4", "rbd/image")
	c.run("ceph", "auth", "get-or-create", "client.guest", "mon", "profile rbd", "osd", "profile rbd pool=rbd")
	key, err := base64.StdEncoding.DecodeString(c.run("ceph", "auth", "get-key", "client.guest"))
	if err != nil {
		t.Fatal(err)
	}
	c.key = key
	return c
}

func (c *ceph) path(name string) string { return filepath.Join(c.dir, name) }

// run runs a command of Ceph's and returns what it prints.
func (c *ceph) run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.command(name, args...).Output()
	if err != nil {
		c.t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(out))
}

func (c *ceph) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CEPH_CONF="+c.path("ceph.conf"))
	return cmd
}

func (c *ceph) monitor() {
	ring := c.path("keyring")
	c.run("ceph-authtool", "-C", ring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
	c.run("ceph-authtool", ring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
	c.run("monmaptool", "--create", "--addv", "a", "[v1:127.0.0.1:"+c.port+"]", c.path("map"))
	c.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", c.path("map"), "--keyring", ring)
	serve(c.t, func() bool { return reachable("tcp", "127.0.0.1:"+c.port) }, "ceph-mon", "-c", c.path("ceph.conf"), "-i", "a", "-f")
}

func (c *ceph) store() {
	if err := os.Mkdir(c.path("osd"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	id, key, ring := "5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d", c.run("ceph-authtool", "--gen-print-key"), c.path("osd/keyring")
	c.run("ceph-authtool", "-C", ring, "-n", "osd.0", "--add-key", key)
	fresh := c.command("ceph", "osd", "new", id, "-i", "-")
	fresh.Stdin = strings.NewReader(fmt.Sprintf(`{"cephx_secret":%q}`, key))
	if out, err := fresh.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	c.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", id, "--keyring", ring)
	up := func() bool { return strings.Contains(c.run("ceph", "osd", "stat"), "1 up") }
	serve(c.t, up, "ceph-osd", "-c", c.path("ceph.conf"), "-i", "0", "-f", "--keyring", ring)
}

// A guest has disks on a real Ceph: by its definition, as a volume of a pool, plugged in, and as a snapshot.
func TestDisksOnCeph(t *testing.T) {
	c := newCeph(t)
	c.run("rbd", "snap", "create", "rbd/image@then")
	c.run("rbd", "create", "--size", "8", "rbd/other")
	c.run("rbd", "create", "--size", "16", "rbd/volume")
	const auth = "<auth username='guest'><secret type='ceph' usage='cluster'/></auth>"
	disk := func(target, bus, name, inner string) string {
		return fmt.Sprintf("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='rbd/%s'>"+
			"<host name='127.0.0.1' port='%s'/>%s%s</source><target dev='%s' bus='%s'/>", name, c.port, auth, inner, target, bus)
	}
	r := newHotRig(t, hotplugBase+disk("vda", "virtio", "image", "")+"</disk>"+disk("vdb", "virtio", "image", "<snapshot name='then'/>")+"<readonly/></disk>"+
		"<disk type='volume'><source pool='p' volume='volume'/><target dev='vdc'/></disk>")
	port, err := strconv.ParseUint(c.port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	ref := &storagev1.SecretRef{Usage: "cluster", UsageType: "ceph"}
	secrets := []*pb.Secret{{Ref: ref, Value: c.key}}
	disks := []*pb.Disk{{Target: "vda", Secrets: secrets}, {Target: "vdb", Secrets: secrets}, {
		Target: "vdc", Pool: "p", Volume: "volume", Secrets: secrets, Network: &storagev1.NetworkSource{
			Protocol: "rbd", Name: "rbd/volume", Hosts: []*storagev1.Host{{Name: "127.0.0.1", Port: uint32(port)}}, User: "guest", Secret: ref,
		},
	}}
	rsp, err := r.startWith(disks...)
	if err != nil {
		t.Fatal(err)
	}
	for alias, want := range map[string]uint64{"virtio-disk0": 4 << 20, "virtio-disk1": 4 << 20, "virtio-disk2": 16 << 20} {
		if got := r.size(alias); got != want {
			t.Errorf("%s has %d bytes, want %d", alias, got, want)
		}
	}
	before := r.inside()
	attached, err := r.driver.AttachDevice(t.Context(), &pb.AttachDeviceRequest{
		Guest: r.guest, DeviceXml: disk("sdb", "scsi", "other", "") + "</disk>", Disks: []*pb.Disk{{Target: "sdb", Secrets: secrets}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.size("scsi0-0-0-1"); got != 8<<20 {
		t.Errorf("the attached disk has %d bytes", got)
	}
	r.hidden(string(c.key), rsp.GetHandle().GetPid(), rsp.GetLiveXml(), attached.GetLiveXml())
	if gone, err := r.detach(attached.GetDeviceXml()); err != nil || !gone.GetGone() {
		t.Errorf("%v, %v", gone, err)
	}
	if after := r.inside(); !slices.Equal(before, after) {
		t.Errorf("left of the disk: %v, was %v", after, before)
	}
	r.stop()
}
