package driver

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// phrase is the value of every secret of these tests.
const phrase = "open-sesame-93"

// secretOf is a disk with a secret.
func secretOf(target, usageType, usage, value string) *pb.Disk {
	return &pb.Disk{Target: target, Secrets: []*pb.Secret{
		{Ref: &storagev1.SecretRef{Usage: usage, UsageType: usageType}, Value: []byte(value)},
	}}
}

// startWith starts the guest with what the core has found out for its disks.
func (r *rig) startWith(disks ...*pb.Disk) (*pb.StartResponse, error) {
	req := r.startRequest(true)
	req.Resolved.Disks = disks
	return r.driver.Start(r.t.Context(), req)
}

// sizes are those of the disks as QEMU sees them, by the disk's qdev.
func (r *rig) size(alias string) uint64 {
	r.t.Helper()
	var list []blockInfo
	r.ask("query-block", nil, &list)
	for _, b := range list {
		if isDevice(b.QDev, alias) && b.Inserted != nil {
			return b.Inserted.Image.Virtual
		}
	}
	return 0
}

// hidden fails if a value can be read by others: in the process's arguments or environment, or in a file of the driver.
func (r *rig) hidden(value string, pid int32, more ...string) {
	r.t.Helper()
	look := func(where string, text []byte) {
		for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
			if bytes.Contains(text, []byte(form)) {
				r.t.Errorf("the secret is in %s", where)
			}
		}
	}
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			r.t.Fatal(err)
		}
		look(name, text)
	}
	for n, text := range more {
		look(fmt.Sprintf("text %d", n), []byte(text))
	}
	s := r.core.Settings()
	for _, dir := range []string{s.RuntimeDir, s.StateDir, s.LogDir} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			look(path, text)
			return err
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// serve runs a server in the foreground until the test ends, and returns once ready says that it serves.
func serve(t testing.TB, ready func() bool, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip("no " + name)
	}
	var words bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &words, &words
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for late := time.After(10 * time.Second); !ready(); {
		select {
		case <-ended:
			t.Fatalf("%s has ended: %s", name, words.String())
		case <-late:
			t.Fatalf("%s does not serve", name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func reachable(network, address string) bool {
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// nbdDisk is a disk over NBD from a server of its own, and where the server listens.
func nbdDisk(t testing.TB, target, bus string) (device string) {
	t.Helper()
	port := freePort(t)
	serve(t, func() bool { return reachable("tcp", "127.0.0.1:"+port) },
		"qemu-nbd", "--persistent", "--shared=4", "--format=raw", "--bind=127.0.0.1", "--port="+port, "--export-name=it", imageFile(t, "raw"))
	return fmt.Sprintf("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='it'>"+
		"<host name='127.0.0.1' port='%s'/></source><target dev='%s' bus='%s'/></disk>", port, target, bus)
}

func TestDiskOverNBD(t *testing.T) {
	r := newHotRig(t, hotplugBase+nbdDisk(t, "vda", "virtio"))
	live := r.start(false).GetLiveXml()
	if !strings.Contains(live, "protocol='nbd'") || r.size("virtio-disk0") != 1<<20 {
		t.Errorf("%d bytes\n%s", r.size("virtio-disk0"), live)
	}
	before := r.inside()
	device := r.attached(nbdDisk(t, "sdb", "scsi")).GetDeviceXml()
	r.restart()
	r.recover(nil)
	if r.size("scsi0-0-0-1") != 1<<20 {
		t.Error("the second disk is not there")
	}
	if gone, err := r.detach(device); err != nil || !gone.GetGone() {
		t.Errorf("%v, %v", gone, err)
	}
	if after := r.inside(); !slices.Equal(before, after) {
		t.Errorf("left of the disk: %v, was %v", after, before)
	}
	r.stop()
}

func TestDiskOverNBDAtASocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nbd")
	serve(t, func() bool { return reachable("unix", socket) },
		"qemu-nbd", "--persistent", "--shared=4", "--format=raw", "--socket="+socket, imageFile(t, "raw"))
	r := newRig(t, "<disk type='network'><source protocol='nbd'><host transport='unix' socket='"+socket+"'/></source><target dev='vda'/></disk>")
	r.start(true)
	if r.size("virtio-disk0") != 1<<20 {
		t.Error("the disk is not there")
	}
	r.stop()
}

// iscsiTarget serves a disk of 1 MiB as LUN 1, to everybody or to who knows the password, and returns the name of the target and its port.
func iscsiTarget(t testing.TB, user, password string) (name, port string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tgtd needs root")
	}
	if modules, _ := filepath.Glob("/usr/lib/*/qemu/block-iscsi.so"); len(modules) == 0 {
		t.Skip("QEMU has no iSCSI: install qemu-block-extra")
	}
	control, image := strconv.Itoa(os.Getpid()%30000+1), imageFile(t, "raw")
	port = freePort(t)
	tell := func(args ...string) error {
		out, err := exec.CommandContext(t.Context(), "tgtadm", append([]string{"-C", control, "--lld", "iscsi"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tgtadm %v: %w: %s", args, err, out)
		}
		return nil
	}
	name = "iqn.2012-11.test:disks"
	serve(t, func() bool { return tell("--op", "show", "--mode", "target") == nil },
		"tgtd", "-f", "--control-port", control, "--iscsi", "portal=127.0.0.1:"+port)
	orders := [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", name},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", image},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	}
	if user != "" {
		orders = append(orders, []string{"--op", "new", "--mode", "account", "--user", user, "--password", password},
			[]string{"--op", "bind", "--mode", "account", "--tid", "1", "--user", user})
	}
	for _, o := range orders {
		if err := tell(o...); err != nil {
			t.Fatal(err)
		}
	}
	return name, port
}

func iscsiDisk(target, bus, name, port, auth string) string {
	return fmt.Sprintf("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='iscsi' name='%s/1'>"+
		"<host name='127.0.0.1' port='%s'/>%s</source><target dev='%s' bus='%s'/></disk>", name, port, auth, target, bus)
}

func TestDiskOverISCSI(t *testing.T) {
	name, port := iscsiTarget(t, "", "")
	r := newRig(t, iscsiDisk("vda", "virtio", name, port, ""))
	r.start(true)
	if r.size("virtio-disk0") != 1<<20 {
		t.Error("the disk is not there")
	}
	r.stop()
}

const chapAuth = "<auth username='alice'><secret type='iscsi' usage='target'/></auth>"

func TestDiskOverISCSIWithAPassword(t *testing.T) {
	name, port := iscsiTarget(t, "alice", phrase)
	r := newHotRig(t, hotplugBase+iscsiDisk("vda", "virtio", name, port, chapAuth))
	if _, err := r.startWith(); !verr.Is(err, verr.NoSecret) {
		t.Errorf("without a secret: %v", err)
	}
	if _, err := r.startWith(secretOf("vda", "iscsi", "target", "another-word-1")); err == nil {
		t.Fatal("the guest has its disk with a wrong password")
	}
	rsp, err := r.startWith(secretOf("vda", "iscsi", "target", phrase))
	if err != nil {
		t.Fatal(err)
	}
	if r.size("virtio-disk0") != 1<<20 {
		t.Error("the disk is not there")
	}
	pid := rsp.GetHandle().GetPid()
	r.hidden(phrase, pid, rsp.GetLiveXml())
	before := r.inside()
	r.restart()
	r.recover(nil)
	attached, err := r.driver.AttachDevice(t.Context(), &pb.AttachDeviceRequest{
		Guest: r.guest, DeviceXml: iscsiDisk("sdb", "scsi", name, port, chapAuth), Disks: []*pb.Disk{secretOf("sdb", "iscsi", "target", phrase)},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.hidden(phrase, pid, attached.GetLiveXml(), attached.GetDeviceXml())
	if gone, err := r.detach(attached.GetDeviceXml()); err != nil || !gone.GetGone() {
		t.Errorf("%v, %v", gone, err)
	}
	if after := r.inside(); !slices.Equal(before, after) {
		t.Errorf("left of the disk: %v, was %v", after, before)
	}
	r.stop()
}

// luksImage makes an encrypted image.
func luksImage(t testing.TB, format string) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("no qemu-img")
	}
	dir := t.TempDir()
	word, path := filepath.Join(dir, "word"), filepath.Join(dir, "image")
	if err := os.WriteFile(word, []byte(phrase), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"create", "-f", format, "--object", "secret,id=s,file=" + word, "-o", "key-secret=s,iter-time=10"}
	if format == "qcow2" {
		args[len(args)-1] = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100"
	}
	args = append(args, path, "1M")
	for tries := 10; ; tries-- {
		out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput()
		if err == nil {
			return path
		}
		if tries == 0 || !strings.Contains(string(out), "CPU usage") { // so little work is hard to measure
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestEncryptedDisks(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			made := map[string]string{"raw": "luks", "qcow2": "qcow2"}[format]
			disk := func(target, bus string) string {
				plain := diskXML(target, bus, format, luksImage(t, made))
				return strings.Replace(plain, "</disk>", "<encryption format='luks'><secret type='passphrase' usage='disk'/></encryption></disk>", 1)
			}
			r := newHotRig(t, hotplugBase+disk("vda", "virtio"))
			rsp, err := r.startWith(secretOf("vda", "volume", "disk", phrase))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.size("virtio-disk0"); got != 1<<20 {
				t.Errorf("the disk has %d bytes", got)
			}
			pid := rsp.GetHandle().GetPid()
			before := r.inside()
			attached, err := r.driver.AttachDevice(t.Context(), &pb.AttachDeviceRequest{
				Guest: r.guest, DeviceXml: disk("sdb", "scsi"), Disks: []*pb.Disk{secretOf("sdb", "volume", "disk", phrase)},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.size("scsi0-0-0-1"); got != 1<<20 {
				t.Errorf("the attached disk has %d bytes", got)
			}
			r.hidden(phrase, pid, rsp.GetLiveXml(), attached.GetLiveXml())
			if gone, err := r.detach(attached.GetDeviceXml()); err != nil || !gone.GetGone() {
				t.Errorf("%v, %v", gone, err)
			}
			if after := r.inside(); !slices.Equal(before, after) {
				t.Errorf("left of the disk: %v, was %v", after, before)
			}
			r.stop()
		})
	}
}

// A guest that runs as somebody else can read the key of its secrets, and a restored one is given them anew.
func TestEncryptedDiskOfAnotherUserIsRestored(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run guests as others")
	}
	image := luksImage(t, "luks")
	passable(t, filepath.Dir(image))
	r := newRigWith(t, "<memory unit='MiB'>16</memory><os><type>hvm</type></os><devices>"+
		"<disk type='file'><driver name='qemu' type='raw'/><source file='"+image+"'/><target dev='vda'/><encryption format='luks'>"+
		"<secret type='passphrase' usage='disk'/></encryption></disk></devices>"+
		"<seclabel type='static' model='dac' relabel='yes'><label>+4321:+4322</label></seclabel>")
	passable(t, r.core.Settings().RuntimeDir)
	disk := secretOf("vda", "volume", "disk", phrase)
	if _, err := r.startWith(disk); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state")
	if _, err := r.save(r.pass(path, os.O_CREATE|os.O_RDWR, 1), false); err != nil {
		t.Fatal(err)
	}
	r.stop()
	req := r.startRequest(true)
	req.Resolved.Disks = []*pb.Disk{disk}
	_, err := r.driver.Restore(t.Context(), &pb.RestoreRequest{Start: req, Token: r.pass(path, os.O_RDONLY, 2), Format: "raw"}, func(*pb.SaveProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.size("virtio-disk0"); got != 1<<20 {
		t.Errorf("the disk has %d bytes", got)
	}
	state, err := os.ReadFile(path)
	if err != nil || bytes.Contains(state, []byte(phrase)) {
		t.Errorf("the secret is in the saved state, %v", err)
	}
	r.stop()
}

// A disk that names a volume is opened where the core has found it, keeps its name in what clients see, and is known again by a driver that
// comes back.
func TestDisksThatNameVolumes(t *testing.T) {
	image, second, third := imageFile(t, "raw"), imageFile(t, "raw"), imageFile(t, "raw")
	volume := func(target, bus, device, name string) string {
		return fmt.Sprintf("<disk type='volume' device='%s'><source pool='p' volume='%s'/><target dev='%s' bus='%s'/></disk>", device, name, target, bus)
	}
	r := newHotRig(t, hotplugBase+volume("vda", "virtio", "disk", "v")+volume("sdd", "scsi", "cdrom", "c"))
	found := []*pb.Disk{
		{Target: "vda", Pool: "p", Volume: "v", Path: image},
		{Target: "sdd", Pool: "p", Volume: "c", Path: image},
		{Target: "sdb", Pool: "p", Volume: "w", Path: second},
		{Target: "sdd", Pool: "p", Volume: "x", Path: third},
	}
	if _, err := r.startWith(); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("a volume that nobody has found: %v", err)
	}
	found[0].Path = image + "2"
	if err := os.WriteFile(found[0].Path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	rsp, err := r.startWith(found[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	named := func(when, text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %s in\n%s", when, w, text)
			}
		}
		if strings.Contains(text, filepath.Dir(image)) || strings.Contains(text, second) {
			t.Errorf("%s: a path is shown\n%s", when, text)
		}
	}
	named("after the start", rsp.GetLiveXml(), "<source pool='p' volume='v' index='", "<source pool='p' volume='c' index='")
	before := r.inside()
	attached, err := r.driver.AttachDevice(t.Context(), &pb.AttachDeviceRequest{
		Guest: r.guest, DeviceXml: volume("sdb", "scsi", "disk", "w"), Disks: found[2:3],
	})
	if err != nil {
		t.Fatal(err)
	}
	named("after a volume was attached", attached.GetDeviceXml(), "<source pool='p' volume='w' index='")
	r.restart()
	again, err := r.driver.Recover(t.Context(), &pb.RecoverRequest{Guest: r.guest, Volumes: found})
	if err != nil {
		t.Fatal(err)
	}
	named("after the driver has come back", again.GetLiveXml(), "volume='v'", "volume='w'", "volume='c'")
	path := func(target string) string {
		l, _, err := r.driver.living(r.guest)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range l.live().Devices.Disks {
			if k.Target.Dev == target {
				return diskPath(&k)
			}
		}
		return ""
	}
	if path("vda") != found[0].Path || path("sdb") != second {
		t.Errorf("the driver has forgotten the paths: %q %q", path("vda"), path("sdb"))
	}
	updated, err := r.driver.UpdateDevice(t.Context(), &pb.UpdateDeviceRequest{
		Guest: r.guest, DeviceXml: volume("sdd", "scsi", "cdrom", "x"), Disks: found[3:],
	})
	if err != nil {
		t.Fatal(err)
	}
	change := updated.GetChange().GetEvents()[0].GetDiskChange()
	if change.GetOldPath() != image || change.GetNewPath() != third || path("sdd") != third {
		t.Errorf("%v, medium is %s", change, path("sdd"))
	}
	named("after the medium was changed", updated.GetDeviceXml(), "<source pool='p' volume='x' index='")
	if gone, err := r.detach(attached.GetDeviceXml()); err != nil || !gone.GetGone() {
		t.Errorf("%v, %v", gone, err)
	}
	after := strings.Join(r.inside(), " ")
	if strings.Contains(after, "scsi0-0-0-1") || len(r.inside()) != len(before) {
		t.Errorf("left of the disk: %v, was %v", after, before)
	}
	r.stop()
}

// An iSCSI volume of a pool brings its own secret.
func TestVolumeThatIsReachedOverANetwork(t *testing.T) {
	name, port := iscsiTarget(t, "alice", phrase)
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "<disk type='volume'><source pool='p' volume='v' mode='direct'/><target dev='vda'/></disk>")
	ref := &storagev1.SecretRef{Usage: "target", UsageType: "iscsi"}
	rsp, err := r.startWith(&pb.Disk{
		Target: "vda", Pool: "p", Volume: "v",
		Network: &storagev1.NetworkSource{
			Protocol: "iscsi", Name: name + "/1", Hosts: []*storagev1.Host{{Name: "127.0.0.1", Port: uint32(number)}}, User: "alice", Secret: ref,
		},
		Secrets: []*pb.Secret{{Ref: ref, Value: []byte(phrase)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.size("virtio-disk0") != 1<<20 || !strings.Contains(rsp.GetLiveXml(), "mode='direct'") || strings.Contains(rsp.GetLiveXml(), "alice") {
		t.Errorf("%d bytes\n%s", r.size("virtio-disk0"), rsp.GetLiveXml())
	}
	r.hidden(phrase, rsp.GetHandle().GetPid())
	r.stop()
}

// A disk with a secret whose attaching was cut off leaves no secret in QEMU.
func TestSecretOfADiskThatDidNotComeIsRemoved(t *testing.T) {
	r := newHotRig(t, hotplugBase)
	r.start(true)
	before := r.inside()
	device := strings.Replace(diskXML("sdb", "scsi", "raw", luksImage(t, "luks")), "</disk>",
		"<encryption format='luks'><secret type='passphrase' usage='disk'/></encryption></disk>", 1)
	_, err := r.driver.AttachDevice(t.Context(), &pb.AttachDeviceRequest{
		Guest: r.guest, DeviceXml: device, Disks: []*pb.Disk{secretOf("sdb", "volume", "disk", "wrong")},
	})
	var refused *verr.Error
	if !errors.As(err, &refused) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong phrase: %v", err)
	}
	if after := r.inside(); !slices.Equal(before, after) {
		t.Errorf("left of the disk: %v, was %v", after, before)
	}
	r.restart()
	r.recover(nil)
	r.stop()
}

// A disk on a web server whose certificate nobody has signed, which asks for a cookie and a password.
func TestDiskOverHTTPS(t *testing.T) {
	if modules, _ := filepath.Glob("/usr/lib/*/qemu/block-curl.so"); len(modules) == 0 {
		t.Skip("QEMU has no HTTP: install qemu-block-extra")
	}
	image := make([]byte, 1<<20)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		cookie, err := req.Cookie("token")
		if user != "alice" || password != phrase || err != nil || cookie.Value != "crumb-77" || req.URL.Path != "/images/a b" || req.URL.RawQuery != "x=1" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(image))
	}))
	defer server.Close()
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, fmt.Sprintf("<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='https' name='images/a b' query='x=1'>"+
		"<host name='%s' port='%s'/><ssl verify='no'/><cookies><cookie name='token'>crumb-77</cookie></cookies>%s</source>"+
		"<target dev='vda' bus='virtio'/><readonly/></disk>", host, port, chapAuth))
	rsp, err := r.startWith(secretOf("vda", "iscsi", "target", phrase))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.size("virtio-disk0"); got != 1<<20 {
		t.Errorf("the disk has %d bytes", got)
	}
	r.hidden(phrase, rsp.GetHandle().GetPid(), rsp.GetLiveXml())
	for _, name := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", rsp.GetHandle().GetPid(), name)); err != nil || bytes.Contains(text, []byte("crumb")) {
			t.Errorf("the cookie is in %s, error %v", name, err)
		}
	}
	r.stop()
}
