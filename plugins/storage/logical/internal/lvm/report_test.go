package lvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/tests/fakelvm"
)

const mib = 1 << 20

// TestReportOfEveryKindOfVolume compares with what lvs tells of a group that has volumes of all kinds.
func TestReportOfEveryKindOfVolume(t *testing.T) {
	l := fakelvm.Start(t, 100*mib+mib, 100*mib+mib)
	restore(t, l)
	installed := LVM{Program: l.Program(), Folder: t.TempDir()}
	g := installed.Group("vg")
	all, err := g.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer(l.Devices[0], "A", l.Devices[1], "B")
	var got []string
	for _, v := range all {
		if v.Hidden {
			continue
		}
		var extents []string
		for _, e := range v.Extents {
			extents = append(extents, fmt.Sprintf("%s:%d-%d", names.Replace(e.Device), e.Start/mib, e.End/mib))
		}
		got = append(got, fmt.Sprintf("%s capacity %d allocation %d origin %q snapshot %v thin %v pool %v on %v",
			v.Name, v.Capacity()/mib, v.Allocation()/mib, v.Origin, v.Snapshot(), v.Thin(), v.Pool(), extents))
	}
	want := []string{
		`mirror capacity 8 allocation 8 origin "" snapshot false thin false pool false on [A:44-52 B:44-52]`,
		`origin capacity 16 allocation 16 origin "" snapshot false thin false pool false on [A:0-16]`,
		`room capacity 16 allocation 16 origin "" snapshot false thin false pool true on [B:64-80]`,
		`snap capacity 16 allocation 4 origin "origin" snapshot true thin false pool false on [A:80-84]`,
		`sparse capacity 60 allocation 4 origin "" snapshot true thin false pool false on [A:84-88]`,
		`striped capacity 32 allocation 32 origin "" snapshot false thin false pool false on [A:16-32 B:0-16]`,
		`thin capacity 100 allocation 0 origin "" snapshot false thin true pool false on []`,
		`thinsnap capacity 100 allocation 0 origin "thin" snapshot false thin true pool false on []`,
		`two-pieces+x.y_z capacity 12 allocation 12 origin "" snapshot false thin false pool false on [A:64-72 B:88-92]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("volumes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	size, err := g.Size(t.Context())
	if err != nil || size.Total != 200*mib || size.Extent != 4*mib || size.Free == 0 || size.Free >= size.Total {
		t.Errorf("size %+v, error %v", size, err)
	}
	devices, err := installed.Devices(t.Context())
	if err != nil || !slices.Equal(devices, []Device{{l.Devices[0], "vg"}, {l.Devices[1], "vg"}}) {
		t.Errorf("devices %v, error %v", devices, err)
	}
	if _, err := installed.Group("other").Volumes(t.Context()); !errors.Is(err, ErrNoGroup) {
		t.Errorf("a group that is not there: %v", err)
	}
}

// restore makes a group with the volumes of the test's data.
func restore(t *testing.T, l *fakelvm.LVM) {
	t.Helper()
	if !l.Emulated {
		t.Skip("volumes of all kinds are made up only where nothing is activated")
	}
	l.Do(t, "vgcreate", "vg", l.Devices[0], l.Devices[1])
	l.Do(t, "lvcreate", "--yes", "-n", "first", "-L", "4m", "vg")
	file := filepath.Join(t.TempDir(), "vg")
	l.Do(t, "vgcfgbackup", "-f", file, "vg")
	text, errText := os.ReadFile(file)
	more, errMore := os.ReadFile(filepath.Join("testdata", "volumes.cfg"))
	if err := errors.Join(errText, errMore); err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), "logical_volumes {")
	_, end, okEnd := strings.Cut(after, "\n\t}\n")
	if !ok || !okEnd {
		t.Fatalf("metadata is %s", text)
	}
	if err := os.WriteFile(file, []byte(before+"logical_volumes {\n"+string(more)+"}\n"+end), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Do(t, "vgcfgrestore", "--force", "-f", file, "vg")
}

func FuzzVolumes(f *testing.F) {
	f.Add(`{"report":[{"lv":[{"lv_name":"a","lv_attr":"swi-a-s---","lv_size":"1","origin":"[a_vorigin]","seg_pe_ranges":"/dev/sda:0-3 b:0-1","vg_extent_size":"4194304"}]}]}`)
	f.Add(`{"report":[{"lv":[{"lv_name":"a","seg_pe_ranges":"a:0-3 a:0-3"}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var s segments
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		for _, v := range s.volumes() {
			for _, e := range v.Extents {
				if e.Start > e.End || !strings.HasPrefix(e.Device, "/") {
					t.Errorf("%q has extent %v", text, e)
				}
			}
		}
	})
}
