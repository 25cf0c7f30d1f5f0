package domxml_test

import (
	"slices"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

func disk(t *testing.T, text string) *libvirtxml.DomainDisk {
	t.Helper()
	dev, err := domxml.ParseDevice(text)
	if err != nil {
		t.Fatal(err)
	}
	return dev.Value.(*libvirtxml.DomainDisk)
}

func TestSecretsOfADiskAreThoseOfItsWholeChain(t *testing.T) {
	k := disk(t, `<disk type='network'>
		<auth username='u'><secret type='iscsi' usage='target'/></auth>
		<source protocol='iscsi' name='iqn/1'>
			<encryption format='luks'><secret type='passphrase' uuid='5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d'/></encryption>
		</source>
		<backingStore type='network'>
			<format type='qcow2'/>
			<source protocol='rbd' name='p/i'><auth username='u'><secret type='ceph' usage='cluster'/></auth></source>
			<backingStore type='file'>
				<format type='qcow2'/>
				<source file='/base'><encryption format='luks'>
					<secret type='passphrase' uuid='5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d'/>
				</encryption></source>
			</backingStore>
		</backingStore>
		<target dev='vda'/></disk>`)
	want := []domxml.SecretRef{
		{Usage: "target", Type: "iscsi"}, {UUID: "5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d", Type: "volume"}, {Usage: "cluster", Type: "ceph"},
	}
	if got := domxml.DiskSecrets(k); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestSourcesAreTheSameByWhatTheyName(t *testing.T) {
	const (
		none    = `<disk type='file' device='cdrom'><target dev='sda'/></disk>`
		file    = `<disk type='file'><source file='/a'/><target dev='sda'/></disk>`
		block   = `<disk type='block'><source dev='/a'/><target dev='sda'/></disk>`
		volume  = `<disk type='volume'><source pool='p' volume='v'/><target dev='sda'/></disk>`
		volumeB = `<disk type='volume'><source pool='p' volume='w'/><target dev='sda'/></disk>`
		nbd     = `<disk type='network'><source protocol='nbd' name='x'><host name='h'/></source><target dev='sda'/></disk>`
		nbdB    = `<disk type='network'><source protocol='nbd' name='x'><host name='i'/></source><target dev='sda'/></disk>`
	)
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{none, none, true},
		{none, file, false},
		{file, file, true},
		{file, block, true},
		{volume, volume, true},
		{volume, volumeB, false},
		{volume, file, false},
		{nbd, nbd, true},
		{nbd, nbdB, false},
		{nbd, none, false},
	} {
		if got := domxml.SameSource(disk(t, c.a).Source, disk(t, c.b).Source); got != c.same {
			t.Errorf("%s\n%s\nsame: %v", c.a, c.b, got)
		}
	}
	resolved := disk(t, volume)
	resolved.Source.File = &libvirtxml.DomainDiskSourceFile{File: "/a"}
	if !domxml.SameSource(resolved.Source, disk(t, volume).Source) || domxml.SameSource(resolved.Source, disk(t, file).Source) {
		t.Error("what a volume stands for has changed what it is")
	}
}
