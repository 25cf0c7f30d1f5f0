package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestLabelsOfDefinitions(t *testing.T) {
	no := false
	nobody := Config{User: "+65534", Group: "+65533"}
	for name, c := range map[string]struct {
		config  Config
		session bool
		labels  string
		// want is the user that QEMU runs as, "its own" for the plugin's, whether files are relabelled, and the live label.
		want string
	}{
		"nothing said, root":            {want: "its own keep dynamic yes +0:+0 +0:+0"},
		"nothing said, a user":          {config: nobody, want: "+65534:+65533 relabel dynamic yes +65534:+65533 +65534:+65533"},
		"a user by number without plus": {config: Config{User: "65534", Group: "7"}, want: "+65534:+7 relabel dynamic yes +65534:+7 +65534:+7"},
		"files stay":                    {config: Config{User: "+65534", Group: "+7", DynamicOwnership: &no}, want: "+65534:+7 keep dynamic yes +65534:+7 +65534:+7"},
		"none":                          {config: nobody, labels: `<seclabel type='none'/>`, want: "+65534:+65533 keep none"},
		"none of the model":             {config: nobody, labels: `<seclabel type='none' model='dac'/>`, want: "+65534:+65533 keep none"},
		"static":                        {labels: `<seclabel type='static' model='dac'><label>+5:+6</label></seclabel>`, want: "+5:+6 keep static no +5:+6"},
		"static that relabels":          {labels: `<seclabel type='static' model='dac' relabel='yes'><label>+5:+6</label></seclabel>`, want: "+5:+6 relabel static yes +5:+6 +5:+6"},
		"static by name":                {config: nobody, labels: `<seclabel type='static' model='dac' relabel='yes'><label>root:root</label></seclabel>`, want: "its own keep static yes root:root root:root"},
		"static without a label":        {labels: `<seclabel type='static' model='dac'/>`, want: "27: security label is missing"},
		"static without a colon":        {labels: `<seclabel type='static' model='dac'><label>root</label></seclabel>`, want: "1: Failed to parse uid and gid from DAC security label 'root'"},
		"static of a stranger":          {labels: `<seclabel type='static' model='dac'><label>no-one-is-called-so:root</label></seclabel>`, want: "8: Cannot parse user or group"},
		"dynamic that does not relabel": {labels: `<seclabel type='dynamic' model='dac' relabel='no'/>`, want: "27: dynamic label type must use resource relabeling"},
		"another model":                 {labels: `<seclabel type='dynamic' model='selinux'/>`, want: "67: Security driver model 'selinux' is not available"},
		"two":                           {labels: `<seclabel type='none'/><seclabel type='none' model='dac'/>`, want: "27: seclabel for model dac is already provided"},
		"in a session":                  {session: true, want: "its own keep"},
		"none in a session":             {session: true, labels: `<seclabel type='none'/>`, want: "its own keep"},
		"static in a session":           {session: true, labels: `<seclabel type='static' model='dac'><label>+5:+6</label></seclabel>`, want: "67: Security driver model 'dac' is not available"},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("the plugin's own user is not root")
			}
			var def libvirtxml.Domain
			if err := def.Unmarshal("<domain>" + c.labels + "</domain>"); err != nil {
				t.Fatal(err)
			}
			l, err := makeLabel(c.config, !c.session, def.SecLabel)
			if got := words(l, err); !strings.HasPrefix(got, c.want) || err == nil && got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func words(l label, err error) string {
	if err != nil {
		return fmt.Sprintf("%d: %v", verr.From(err).Code, err)
	}
	got := []string{"its own", "keep"}
	if l.owner != nil {
		got[0] = ownerOf(l.owner).String()
	}
	if l.relabel {
		got[1] = "relabel"
	}
	if v := l.live; v != nil {
		got = append(got, v.Type, v.Relabel, v.Label, v.ImageLabel)
	}
	return strings.Join(strings.Fields(strings.Join(got, " ")), " ")
}

// passable lets other users pass through the folders above a path.
func passable(t *testing.T, path string) {
	t.Helper()
	for dir := path; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// files are a disk, the image below it that others may use, and the file of a serial port that does not exist yet.
type files struct{ disk, base, port string }

func makeFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	passable(t, dir)
	f := files{filepath.Join(dir, "disk.img"), filepath.Join(dir, "cdrom.iso"), filepath.Join(dir, "serial.log")}
	for _, path := range []string{f.disk, f.base} {
		if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 1234, 1234); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestGuestOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run guests as others")
	}
	for name, lose := range map[string]func(*rig){"": func(*rig) {}, " that outlives the driver": (*rig).restart} {
		t.Run("a guest"+name, func(t *testing.T) {
			f := makeFiles(t)
			r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type></os>
				<seclabel type='static' model='dac' relabel='yes'><label>+4321:+4322</label></seclabel><devices>
				<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='`+f.disk+`'/><target dev='vda' bus='virtio'/></disk>
				<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='`+f.base+`'/><target dev='sda' bus='sata'/><readonly/></disk>
				<serial type='file'><source path='`+f.port+`'/></serial><graphics type='vnc' socket=''><listen type='socket'/></graphics></devices>`)
			passable(t, r.core.Settings().RuntimeDir)
			started := r.start(false)
			if uid := owner(t, fmt.Sprintf("/proc/%d", started.GetHandle().GetPid())); uid != 4321 {
				t.Errorf("qemu runs as user %d", uid)
			}
			for _, path := range []string{f.disk, f.base, f.port} {
				if uid := owner(t, path); uid != 4321 {
					t.Errorf("%s belongs to user %d while the guest lives", path, uid)
				}
			}
			if live := started.GetLiveXml(); !strings.Contains(live, "<imagelabel>+4321:+4322</imagelabel>") {
				t.Errorf("live xml is %s", live)
			}
			lose(r)
			if name != "" {
				r.recover(nil)
			}
			r.stop()
			for path, want := range map[string]uint32{f.disk: 1234, f.base: 1234, f.port: 0} {
				if uid := owner(t, path); uid != want {
					t.Errorf("%s belongs to user %d after the guest's end, not %d", path, uid, want)
				}
			}
		})
	}
}

func TestFailedStartGivesTheFilesBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run guests as others")
	}
	f := makeFiles(t)
	r := newRigWith(t, `<memory unit='MiB'>16</memory><os><type>hvm</type><kernel>/nonexistent</kernel></os>
		<seclabel type='static' model='dac' relabel='yes'><label>+4321:+4322</label></seclabel><devices>
		<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='`+f.disk+`'/><target dev='vda' bus='virtio'/></disk></devices>`)
	passable(t, r.core.Settings().RuntimeDir)
	if _, err := r.driver.Start(t.Context(), r.startRequest(true)); !verr.Is(err, verr.Internal) {
		t.Errorf("error is %v", err)
	}
	if uid := owner(t, f.disk); uid != 1234 {
		t.Errorf("the disk belongs to user %d", uid)
	}
	r.nothingLeft()
}

func TestTPMAndVariablesOfAGuestOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run guests as others")
	}
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("no swtpm")
	}
	if _, err := os.Stat("/usr/share/OVMF"); err != nil {
		t.Skip("no UEFI firmware")
	}
	r := newRigWith(t, `<memory unit='MiB'>64</memory><os firmware='efi'><type machine='q35'>hvm</type></os><features><acpi/></features>
		<seclabel type='static' model='dac' relabel='yes'><label>+4321:+4322</label></seclabel>
		<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>`)
	for _, dir := range []string{r.core.Settings().RuntimeDir, r.core.Settings().StateDir, r.core.Settings().LogDir} {
		passable(t, dir)
	}
	r.start(false)
	r.stop()
	r.restart()
	r.start(false)
	r.stop()
}
