package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/tests/fakelvm"
)

// diskCommands tell the life of a pool that is a disk; DEVICE is the disk, PART what the names of its partitions begin with, FILE and BACK
// are files.
var diskCommands = []command{
	{name: "a disk is defined", args: "pool-define-as p disk --source-dev DEVICE --source-format gpt --target /dev", want: `Pool p defined`},
	{name: "without a label it does not start", args: "pool-start p", want: `Storage pool probe failed: .*requires build`, fails: true},
	{name: "it is labelled", args: "pool-build p --no-overwrite", want: `Pool p built`},
	{name: "once", args: "pool-build p", want: `Storage pool already built`, fails: true},
	{name: "unless it is meant", args: "pool-build p --overwrite", want: `Pool p built`},
	{name: "it starts", args: "pool-start p", want: `Pool p started`},
	{name: "its room is told", args: "pool-info p", want: `(?s)Capacity: +63\.98 MiB.*Allocation: +0\.00 B.*Available: +63\.97 MiB`},
	{name: "and where it is free", args: "pool-dumpxml p", want: `<device path='DEVICE'>\n +<freeExtent start='17408' end='\d+'/>\n +</device>`},
	{name: "a partition is made", args: "vol-create-as p PART1 8M --format linux", want: `Vol PART1 created`},
	{name: "not under another name", args: "vol-create-as p other 8M", want: `invalid partition name 'other', expected 'PART2'`, fails: true},
	{name: "and nothing was made then", args: "vol-list p --details", want: `(?s)PART1 +/dev/PART1 +block +8\.00 MiB +8\.00 MiB\s+$`},
	{name: "nor encrypted", args: "vol-create p FILE.xml", want: `cannot be encrypted`, fails: true},
	{name: "free room is told anew", args: "pool-dumpxml p", want: `<freeExtent start='9437184' end='\d+'/>`},
	{name: "its XML tells where it is", args: "vol-dumpxml PART1 p", want: `(?s)<device path='DEVICE'>\s+<extent start='1048576' end='9437184'/>.*<path>/dev/PART1</path>`},
	{name: "it is written", args: "vol-upload PART1 FILE --pool p", want: `^\s*$`},
	{name: "and cloned", args: "vol-clone PART1 PART2 --pool p", want: `Vol PART2 cloned`},
	{name: "and wiped", args: "vol-wipe PART1 p", want: `Vol PART1 wiped`},
	{name: "the clone is read", args: "vol-download PART2 BACK --pool p", want: `^\s*$`},
	{name: "a partition keeps its size", args: "vol-resize PART1 16M --pool p", want: `not supported`, fails: true},
	{name: "it is deleted", args: "vol-delete PART1 p", want: `Vol PART1 deleted`},
	{name: "and its room is free", args: "pool-dumpxml p", want: `(?s)<freeExtent start='17408' end='9437184'/>\s+<freeExtent`},
	{name: "the pool is stopped", args: "pool-destroy p", want: `Pool p destroyed`},
	{name: "and deleted, which leaves the disk alone", args: "pool-delete p", want: `Pool p deleted`},
	{name: "so it can start again", args: "pool-start p", want: `Pool p started`},
	{name: "with what was there", args: "vol-list p", want: `PART2`},
	{name: "it ends", args: "pool-destroy p", want: `destroyed`},
}

// logicalCommands tell the life of a pool that is a volume group; DEVICE is its disk, TARGET the folder of its volumes.
var logicalCommands = []command{
	{name: "a group is defined", args: "pool-define-as p logical --source-dev DEVICE --source-name vg --target TARGET", want: `Pool p defined`},
	{name: "it is not there", args: "pool-start p", want: `cannot start volume group 'vg'.*not found`, fails: true},
	{name: "it is built", args: "pool-build p", want: `Pool p built`},
	{name: "and found", args: "find-storage-pool-sources logical", want: `(?s)<device path='DEVICE'/>\s+<name>vg</name>\s+<format type='lvm2'/>`},
	{name: "it starts", args: "pool-start p", want: `Pool p started`},
	{name: "its room is told", args: "pool-info p", want: `(?s)Capacity: +60\.00 MiB.*Allocation: +0\.00 B.*Available: +60\.00 MiB`},
	{name: "a volume is made", args: "vol-create-as p a 5M", want: `Vol a created`},
	{name: "once", args: "vol-create-as p a 5M", want: `storage volume .*exists`, fails: true},
	{name: "not without room", args: "vol-create-as p b 5G", want: `cannot make volume 'b'`, fails: true},
	{name: "nor with a name that is none", args: "vol-create-as p b@c 5M", want: `no name of a logical volume`, fails: true},
	{name: "it is listed", args: "vol-list p --details", want: `a +TARGET/a +block +8\.00 MiB +8\.00 MiB`},
	{name: "its XML tells where it is", args: "vol-dumpxml a p", want: `(?s)<key>\w{6}(-\w{4}){5}-\w{6}</key>.*<device path='DEVICE'>\s+<extent start='0' end='8388608'/>.*<path>TARGET/a</path>`},
	{name: "it is written", args: "vol-upload a FILE --pool p", want: `^\s*$`},
	{name: "and cloned", args: "vol-clone a b --pool p", want: `Vol b cloned`},
	{name: "and wiped", args: "vol-wipe a p", want: `Vol a wiped`},
	{name: "the clone is read", args: "vol-download b BACK --pool p", want: `^\s*$`},
	{name: "it grows", args: "vol-resize a 12M --pool p", want: `successfully changed`},
	{name: "and shrinks if that is meant", args: "vol-resize a 4M --pool p --shrink", want: `successfully changed`},
	{name: "and is that big", args: "vol-info a p", want: `Capacity: +4\.00 MiB`},
	{name: "it is deleted", args: "vol-delete a p", want: `Vol a deleted`},
	{name: "the pool's room is true", args: "pool-info p", want: `Allocation: +8\.00 MiB`},
	{name: "it is stopped", args: "pool-destroy p", want: `Pool p destroyed`},
	{name: "and deleted", args: "pool-delete p", want: `Pool p deleted`},
	{name: "and gone", args: "find-storage-pool-sources logical", want: `<sources>\s*</sources>|<sources/>`},
}

// blockPool runs the commands with what stands in them replaced, and holds that what was uploaded was downloaded.
func blockPool(t *testing.T, do func(args ...string) (string, error), commands []command, words ...string) {
	t.Helper()
	file, back := filepath.Join(t.TempDir(), "sent"), filepath.Join(t.TempDir(), "got")
	sent := make([]byte, 3<<20)
	_, err := rand.Read(sent)
	encrypted := "<volume><name>x</name><capacity>1</capacity><target><encryption format='luks'/></target></volume>"
	if err := errors.Join(err, os.WriteFile(file, sent, 0o600), os.WriteFile(file+".xml", []byte(encrypted), 0o600)); err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer(append(words, "FILE", file, "BACK", back)...)
	all := make([]command, len(commands))
	for n, c := range commands {
		c.args, c.want = replace.Replace(c.args), replace.Replace(c.want)
		all[n] = c
	}
	run(t, all, do, "")
	if got, err := os.ReadFile(back); err != nil || !bytes.HasPrefix(got, sent) {
		t.Errorf("%d bytes came back changed, error %v", len(got), err)
	}
}

func TestVirshDisk(t *testing.T) {
	need(t, "virsh", "parted")
	device := fakelvm.Loop(t, filepath.Join(t.TempDir(), "disk"), 64<<20)
	h := startHost(t)
	do := func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }
	blockPool(t, do, diskCommands, "DEVICE", device, "PART", filepath.Base(device)+"p")
}

// TestVirshLogical runs LVM without the kernel's device-mapper where there is none: volumes are files then.
func TestVirshLogical(t *testing.T) {
	need(t, "virsh")
	l := fakelvm.Start(t, 64<<20)
	h := newHost(t)
	conf := filepath.Join(h.Dir, "etc", "plugins.d")
	err := errors.Join(os.Mkdir(conf, 0o755),
		os.WriteFile(filepath.Join(conf, "logical.toml"), fmt.Appendf(nil, "[config]\nprogram = %q\n", l.Program()), 0o600))
	if err == nil {
		err = h.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }
	blockPool(t, do, logicalCommands, "DEVICE", l.Devices[0], "TARGET", l.Target("vg"))
}
