package datastore

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

func disk(name string, modified int64) found {
	at := time.Unix(modified, 0)
	return found{name, &types.VmDiskFileInfo{FileInfo: types.FileInfo{Path: name, Modification: &at}}}
}

func TestOneDiskOfSeveralHasAUUID(t *testing.T) {
	k := &Keys{}
	a, b := disk("a.vmdk", 1), disk("b.vmdk", 1)
	if got := k.put(a, "uuid"); got != "uuid" {
		t.Errorf("the first has %q", got)
	}
	if got := k.put(b, "uuid"); got != "" {
		t.Errorf("the second has %q", got)
	}
	if got := k.put(a, "uuid"); got != "uuid" {
		t.Errorf("the first has %q when it is asked again", got)
	}
	if _, known := k.get(disk("a.vmdk", 2)); known {
		t.Error("a disk that looks different is known")
	}
	k.keep([]found{b})
	if _, known := k.get(a); known {
		t.Error("a disk that is gone is known")
	}
	if got := k.put(b, "uuid"); got != "uuid" {
		t.Errorf("when the first is gone, the second has %q", got)
	}
	k.drop("b.vmdk")
	if _, known := k.get(b); known || len(k.owner) != 0 {
		t.Errorf("after all were dropped %v is known", k.known)
	}
}

func TestNamesOfWhatIsMadeTellTheirAge(t *testing.T) {
	p := &Pool{}
	m := p.begin("a/b.vmdk")
	if !strings.HasPrefix(m.work, "a/"+hidden) || !strings.HasSuffix(m.work, ".vmdk") || !isHidden(m.work) {
		t.Errorf("the name is %q", m.work)
	}
	if old, ok := age(m.work); !ok || old < 0 || old > time.Minute {
		t.Errorf("its age is %s, %v", old, ok)
	}
	for _, name := range []string{"a/b.vmdk", hidden + "x-1.iso", hidden, hidden + "-"} {
		if old, ok := age(name); ok {
			t.Errorf("%q has the age %s", name, old)
		}
	}
}

func TestRevisionChangesWithWhatTellsOfChanges(t *testing.T) {
	now, later := time.Unix(1, 0), time.Unix(2, 0)
	facts := func(change func(*Facts)) string {
		f := Facts{
			Summary: types.DatastoreSummary{Accessible: true, Capacity: 100, FreeSpace: 50},
			Info:    &types.VmfsDatastoreInfo{DatastoreInfo: types.DatastoreInfo{Timestamp: &now}},
			Machines: []types.ManagedObjectReference{
				{Type: "VirtualMachine", Value: "1"}, {Type: "VirtualMachine", Value: "2"},
			},
		}
		change(&f)
		return (&Pool{facts: f}).revision()
	}
	same := facts(func(*Facts) {})
	if again := facts(func(f *Facts) { f.Machines[0], f.Machines[1] = f.Machines[1], f.Machines[0] }); again != same {
		t.Error("the order of machines changes the revision")
	}
	for what, change := range map[string]func(*Facts){
		"room":       func(f *Facts) { f.Summary.FreeSpace++ },
		"a capacity": func(f *Facts) { f.Summary.Capacity++ },
		"state":      func(f *Facts) { f.Summary.Accessible = false },
		"a look":     func(f *Facts) { f.Info.GetDatastoreInfo().Timestamp = &later },
		"a machine":  func(f *Facts) { f.Machines = f.Machines[:1] },
	} {
		if facts(change) == same {
			t.Errorf("%s does not change the revision", what)
		}
	}
}

func FuzzDescriptorKeepsToItsFolder(f *testing.F) {
	var good bytes.Buffer
	if err := vmdk.NewDescriptor(vmdk.Extent{Info: "b-flat.vmdk", Size: 2048}).Write(&good); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(bytes.ReplaceAll(good.Bytes(), []byte("b-flat"), []byte("../c-flat")))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &content{pool: &Pool{}, name: "a/b.vmdk"}
		if c.extent(text) != nil {
			return
		}
		if rest, ok := strings.CutPrefix(c.file, "a/"); !ok || strings.Contains(rest, "/") || rest == ".." || c.size > maxCapacity {
			t.Errorf("the content is %d bytes of %q", c.size, c.file)
		}
	})
}

func FuzzDefinition(f *testing.F) {
	f.Add("<volume><name>a/b.vmdk</name><capacity>1024</capacity></volume>")
	f.Add("<volume><name>a/../b.iso</name><capacity unit='EiB'>7</capacity><allocation>0</allocation></volume>")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := read(&pb.CreateRequest{Xml: text}, "")
		if err != nil {
			return
		}
		if formats[".vmdk"] == p.format && (p.bytes == 0 || p.kib()<<10 < int64(p.bytes) || p.kind == "") || p.bytes > maxCapacity || isHidden(p.name) {
			t.Errorf("the plan is %+v", p)
		}
	})
}
