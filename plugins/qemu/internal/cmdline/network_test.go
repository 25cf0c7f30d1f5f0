package cmdline_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// secretWord is the value of every secret of these tests.
const secretWord = "open sesame"

func withSecrets() cmdline.Plan {
	return cmdline.Plan{Secret: func(domxml.SecretRef) ([]byte, bool) { return []byte(secretWord), true }, KeyFD: 9}
}

func networkDisk(attributes, inner string) string {
	return "<disk type='network'><source " + attributes + ">" + inner + "</source><target dev='vda'/></disk>"
}

func TestDisksOverNetworks(t *testing.T) {
	for name, c := range map[string]struct{ disk, want string }{
		"an iSCSI host by its IPv6 address": {
			networkDisk("protocol='iscsi' name='iqn.2012-11.test:t/3'", "<host name='::1'/>"),
			`"driver":"iscsi","lun":3,"node-name":"libvirt-1-storage","portal":"[::1]:3260","target":"iqn.2012-11.test:t","transport":"tcp"`,
		},
		"a snapshot in the name of an RBD image": {
			networkDisk("protocol='rbd' name='p/i@s'", ""), `"driver":"rbd","image":"i","node-name":"libvirt-1-storage","pool":"p","snapshot":"s"`,
		},
		"a namespace in the name of an RBD image": {
			networkDisk("protocol='rbd' name='p/ns/i'", ""), `"image":"i","namespace":"ns","node-name":"libvirt-1-storage","pool":"p"`,
		},
		"an NBD server that may come back": {
			networkDisk("protocol='nbd' name='x'", "<host name='h'/><reconnect delay='10'/>"),
			`"export":"x","node-name":"libvirt-1-storage","reconnect-delay":10,"server":{"host":"h","port":"10809","type":"inet"}`,
		},
		"a path with a blank":             {networkDisk("protocol='http' name='/a b'", "<host name='::1' port='81'/>"), `"url":"http://[::1]:81/a%20b"`},
		"sheepdog, as far as it is known": {networkDisk("protocol='sheepdog' name='v'", ""), `"server":{"host":"localhost","port":"7000","type":"inet"},"vdi":"v"`},
	} {
		cmd, err := tryBuild(guest("pc", "", c.disk), cmdline.Plan{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := option(cmd, "-blockdev"); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, c.want) }) {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

func TestDisksOverNetworksThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		disk string
		want verr.Code
	}{
		"a protocol without a driver": {networkDisk("protocol='gluster' name='v/i'", "<host name='h'/>"), verr.ConfigUnsupported},
		"two hosts for iSCSI":         {networkDisk("protocol='iscsi' name='t'", "<host name='a'/><host name='b'/>"), verr.ConfigUnsupported},
		"no host for NBD":             {networkDisk("protocol='nbd'", ""), verr.ConfigUnsupported},
		"a LUN that is no number":     {networkDisk("protocol='iscsi' name='t/x'", "<host name='a'/>"), verr.XMLError},
		"TLS":                         {networkDisk("protocol='nbd' tls='yes'", "<host name='a'/>"), verr.ConfigUnsupported},
		"a secret that nobody has given": {
			networkDisk("protocol='rbd' name='p/i'", "<auth username='u'><secret type='ceph' usage='c'/></auth>"), verr.NoSecret,
		},
		"a volume that nobody has found": {"<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>", verr.ConfigUnsupported},
	} {
		if _, err := tryBuild(guest("pc", "", c.disk), cmdline.Plan{}); !verr.Is(err, c.want) {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
}

func TestSheepdogNeedsAnOldQEMU(t *testing.T) {
	for version, works := range map[uint64]bool{5_002_000: true, 6_000_000: false, 7_002_000: false} {
		d, err := domxml.Parse(guest("pc", "", networkDisk("protocol='sheepdog' name='v'", "<host name='h' port='1'/>")))
		if err == nil {
			err = domxml.Complete(d)
		}
		env := plainEnv()
		env.Version = version
		if err == nil {
			err = define.Complete(d, env)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = cmdline.Build(d, cmdline.Plan{Env: env})
		if works && err != nil || !works && (!verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "sheepdog")) {
			t.Errorf("QEMU %d: %v", version, err)
		}
	}
}

const luksDisk = "<disk type='file'><source file='/i'/><target dev='sdb' bus='scsi'/>" +
	"<encryption format='luks'><secret type='passphrase' usage='x'/></encryption></disk>"

// Secrets are encrypted in arguments, each in its own way, and the key is not there; a living QEMU is told them as they are.
func TestSecretsStayOutOfTheArguments(t *testing.T) {
	cmd, err := tryBuild(guest("pc", "", luksDisk+strings.Replace(luksDisk, "sdb", "sdc", 1)), withSecrets())
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(cmd.Args, "\n")
	for _, word := range []string{secretWord, string(cmd.SecretKey)} {
		if strings.Contains(all, word) || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(word))) {
			t.Errorf("%q is in\n%s", word, all)
		}
	}
	objects := option(cmd, "-object")
	if len(cmd.SecretKey) != 32 || objects[0] != `{"file":"/proc/self/fd/9","format":"raw","id":"masterKey0","qom-type":"secret"}` {
		t.Errorf("key of %d bytes, first object %s", len(cmd.SecretKey), objects[0])
	}
	secrets := slices.DeleteFunc(objects, func(o string) bool { return !strings.Contains(o, `"keyid":"masterKey0"`) })
	if len(secrets) != 2 || strings.ReplaceAll(secrets[0], "libvirt-1", "libvirt-2") == secrets[1] {
		t.Errorf("secrets %v", secrets)
	}
	plain, err := tryBuild(guest("pc", "", ""), withSecrets())
	if err != nil || plain.SecretKey != nil || strings.Contains(strings.Join(plain.Args, " "), "masterKey0") {
		t.Errorf("a guest without secrets has a key: %v, %v", plain.Args, err)
	}
}

func TestSecretsComeAndGoWithTheirDisk(t *testing.T) {
	cmd, err := tryBuild(guest("pc", "", "<controller type='scsi' model='virtio-scsi'/>"), cmdline.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := domxml.ParseDevice(luksDisk)
	if err != nil {
		t.Fatal(err)
	}
	news, err := define.Plug(cmd.Live, dev, plainEnv())
	if err != nil {
		t.Fatal(err)
	}
	steps, err := cmdline.Plug(cmd.Live, news[0], withSecrets())
	if err != nil {
		t.Fatal(err)
	}
	var done []string
	for _, s := range steps {
		done = append(done, s.Do.Name)
	}
	if got := strings.Join(done, " "); got != "object-add blockdev-add blockdev-add device_add" {
		t.Fatalf("orders %s", got)
	}
	data := base64.StdEncoding.EncodeToString([]byte(secretWord))
	want := fmt.Sprintf(`{"data":%q,"format":"base64","id":"libvirt-1-format-encryption-secret0","qom-type":"secret"}`, data)
	if got := string(steps[0].Do.Args); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	gone := cmdline.MediumDel(news[0].Value.(*libvirtxml.DomainDisk))
	if !slices.ContainsFunc(gone, func(o cmdline.Order) bool {
		return o.Name == "object-del" && string(o.Args) == `{"id":"libvirt-1-format-encryption-secret0"}`
	}) {
		t.Errorf("the secret stays: %v", gone)
	}
}
