package define_test

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// source is a disk of a type with something in its source, and below the disk.
func source(kind, attributes, inner, more string) string {
	return guest("pc", "<disk type='"+kind+"'><source "+attributes+">"+inner+"</source><target dev='vda'/>"+more+"</disk>")
}

const (
	host   = "<host name='h'/>"
	iscsi  = "protocol='iscsi' name='iqn.2012-11.test:t/1'"
	chap   = "<auth username='u'><secret type='iscsi' usage='t'/></auth>"
	phrase = "<encryption format='luks'><secret type='passphrase' uuid='5A1C42AC-7f0c-4de9-8c24-2a1d1a1b2c3d'/></encryption>"
)

func TestImagesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, xml string
		code      verr.Code
		says      string
	}{
		{"a volume without a pool", source("volume", "volume='v'", "", ""), verr.XMLError, "'pool' and 'volume' must be specified together"},
		{"a volume of an unknown mode", source("volume", "pool='p' volume='v' mode='x'", "", ""), verr.XMLError, "'mode'"},
		{"no protocol", source("network", "name='x'", host, ""), verr.XMLError, "'protocol'"},
		{"an unknown protocol", source("network", "protocol='x' name='x'", host, ""), verr.XMLError, "'protocol'"},
		{"no name", source("network", "protocol='iscsi'", host, ""), verr.XMLError, "missing name for disk source"},
		{"an RBD image without a pool", source("network", "protocol='rbd' name='x'", host, ""), verr.XMLError, "can't split path 'x'"},
		{"an unknown transport", source("network", iscsi, "<host name='h' transport='x'/>", ""), verr.XMLError, "transport type 'x'"},
		{"a unix transport without a socket", source("network", "protocol='nbd'", "<host transport='unix'/>", ""), verr.XMLError, "missing socket"},
		{"a socket without a unix transport", source("network", "protocol='nbd'", "<host name='h' socket='/s'/>", ""), verr.XMLError, "does not support socket"},
		{"a host without a name", source("network", iscsi, "<host port='1'/>", ""), verr.XMLError, "missing name for host"},
		{"auth without a user", source("network", iscsi, host+"<auth><secret type='iscsi' usage='t'/></auth>", ""), verr.XMLError, "missing username"},
		{"auth without a secret", source("network", iscsi, host+"<auth username='u'/>", ""), verr.XMLError, "<secret>"},
		{"auth of another type", source("network", iscsi, host+strings.Replace(chap, "iscsi", "ceph", 1), ""), verr.ConfigUnsupported, "invalid secret type 'ceph'"},
		{"auth of no type", source("network", iscsi, host+strings.Replace(chap, " type='iscsi'", "", 1), ""), verr.ConfigUnsupported, "unknown secret type"},
		{"auth twice", source("network", iscsi, host+chap, chap), verr.ConfigUnsupported, "<auth> definition already found"},
		{"a secret by nothing", source("network", iscsi, host+strings.Replace(chap, " usage='t'", "", 1), ""), verr.XMLError, "missing secret uuid or usage"},
		{"a secret by two names", source("file", "file='/f'", strings.Replace(phrase, "uuid=", "usage='x' uuid=", 1), ""), verr.XMLError, "either secret uuid or usage"},
		{"a secret of a malformed UUID", source("file", "file='/f'", strings.Replace(phrase, "5A1C", "xyz", 1), ""), verr.XMLError, "invalid secret uuid"},
		{"encryption twice", source("file", "file='/f'", phrase, phrase), verr.ConfigUnsupported, "<encryption> definition already found"},
		{"encryption of an unknown format", source("file", "file='/f'", strings.Replace(phrase, "luks", "x", 1), ""), verr.XMLError, "format type 'x'"},
		{"encryption of an old format", source("file", "file='/f'", strings.Replace(phrase, "luks", "qcow", 1), ""), verr.ConfigUnsupported, "old qcow/qcow2"},
		{"LUKS 2 in QEMU", source("file", "file='/f'", strings.Replace(phrase, "luks", "luks2", 1), ""), verr.ConfigUnsupported, "luks2"},
		{"librbd for a file", source("file", "file='/f'", strings.Replace(phrase, "format", "engine='librbd' format", 1), ""), verr.ConfigUnsupported, "RBD"},
		{"encryption without a secret", source("file", "file='/f'", "<encryption format='luks'/>", ""), verr.ConfigUnsupported, "one secret"},
		{"encryption of a format that has none", source("file", "file='/f'", phrase, "<driver type='vmdk'/>"), verr.ConfigUnsupported, "'raw' and 'qcow2'"},
		{"encryption with a cipher", source("file", "file='/f'", strings.Replace(phrase, "<secret", "<cipher name='aes'/><secret", 1), ""), verr.ConfigUnsupported, "<cipher>"},
		{
			"an image below with a wrong secret",
			source("file", "file='/f'", "", "<backingStore type='network'><format type='raw'/><source "+iscsi+">"+host+
				strings.Replace(chap, "iscsi", "ceph", 1)+"</source></backingStore>"), verr.ConfigUnsupported, "invalid secret type 'ceph'",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := complete(t, c.xml); !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want code %d and %q", err, c.code, c.says)
			}
		})
	}
}

func TestImagesAreCompleted(t *testing.T) {
	for xml, want := range map[string]string{
		source("volume", "pool='p' volume='v'", "", ""):           "<driver name='qemu' type='raw'/>",
		source("file", "file='/f'", phrase, ""):                   "<encryption format='luks' engine='qemu'>",
		source("file", "file='/g'", phrase, ""):                   "uuid='5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d'",
		source("network", "protocol='sheepdog' name='x'", "", ""): "<source protocol='sheepdog' name='x'/>",
		source("network", iscsi, host, chap):                      "<auth username='u'>",
	} {
		d, err := complete(t, xml)
		if err != nil {
			t.Errorf("%s: %v", xml, err)
			continue
		}
		if got := format(t, d); !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}
