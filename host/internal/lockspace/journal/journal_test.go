package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

func owner(n byte) Owner {
	return Owner{UUID: uuid.UUID{n}, Name: fmt.Sprintf("guest %d \n\"", n), ID: uint32(n), Generation: uint64(n)}
}

func acquire(n uint64) Record {
	return Record{Op: Acquire, Owner: owner(byte(n)), Leases: []Lease{{
		Number: n, Resource: lockspace.ForDisk("/locks", fmt.Sprint("/disk", n), lockspace.Mode(n%2 == 0)), Since: time.Unix(int64(n), 0).UTC(),
	}}}
}

// story has every kind of record.
func story() []Record {
	withProcess := owner(2)
	withProcess.Process = process.ID{PID: 22, StartTime: 222}
	return []Record{
		{Op: Space, Space: "/locks"},
		acquire(1), acquire(2),
		{Op: Process, Owner: withProcess, Numbers: []uint64{2, 77}},
		acquire(3),
		{Op: Release, Numbers: []uint64{1, 99}},
	}
}

func open(t *testing.T, path, boot string) (*Journal, State, int) {
	t.Helper()
	j, found, damaged, err := Open(path, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, found, damaged
}

func fold(records ...Record) State {
	s := newState()
	for _, r := range records {
		s.apply(r)
	}
	return s
}

func TestWhatWasAppendedIsFoundAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot one")
	for _, r := range story() {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing is closed here: the writer may have been killed.
	want := fold(story()...)
	want.Boot = "boot one"
	for _, boot := range []string{"boot one", "boot two"} {
		_, found, damaged := open(t, path, boot)
		if diff := cmp.Diff(want, found); diff != "" || damaged != 0 {
			t.Errorf("found (-want +got), %d damaged lines:\n%s", damaged, diff)
		}
		want.Boot = boot
	}
}

func TestTornAtEveryByteKeepsEarlierRecords(t *testing.T) {
	var text []byte
	type cut struct{ end, records int }
	cuts := []cut{{}}
	for i, r := range story() {
		line, err := format(r)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, line...)
		cuts = append(cuts, cut{len(text), i + 1})
	}
	for end := range len(text) + 1 {
		whole := 0
		for _, c := range cuts {
			if c.end <= end {
				whole = c.records
			}
		}
		got, damaged, err := read(bytes.NewReader(text[:end]))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fold(story()[:whole]...), got); diff != "" {
			t.Fatalf("torn at byte %d (-want +got):\n%s", end, diff)
		}
		if torn := end != cuts[whole].end; (damaged > 0) != torn {
			t.Fatalf("torn at byte %d: %d damaged lines", end, damaged)
		}
	}
}

func TestDamageCostsOneRecord(t *testing.T) {
	records := story()
	for i := range records {
		var text []byte
		rest := append(append([]Record{}, records[:i]...), records[i+1:]...)
		for k, r := range records {
			line, err := format(r)
			if err != nil {
				t.Fatal(err)
			}
			if k == i {
				line[len(line)/2] ^= 1
			}
			text = append(text, line...)
		}
		got, damaged, err := read(bytes.NewReader(text))
		if diff := cmp.Diff(fold(rest...), got); err != nil || damaged != 1 || diff != "" {
			t.Errorf("record %d damaged: %d damaged lines, error %v (-want +got):\n%s", i, damaged, err, diff)
		}
	}
}

func TestJournalStaysShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	for n := range uint64(3 * slack) {
		if err := j.Append(acquire(n + 1)); err != nil {
			t.Fatal(err)
		}
		if err := j.Append(Record{Op: Release, Numbers: []uint64{n + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(2 * slack * 512); st.Size() > most {
		t.Errorf("journal of nothing has %d bytes", st.Size())
	}
	if _, found, _ := open(t, path, "boot"); len(found.Leases) != 0 {
		t.Errorf("%d leases left of none", len(found.Leases))
	}
}

func TestFailedWriteLeavesNoTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	if err := j.Append(acquire(1)); err != nil {
		t.Fatal(err)
	}
	good := j.file
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	j.file = readOnly
	for range 2 {
		if err := j.Append(acquire(2)); err == nil {
			t.Fatal("Append to a file that cannot be written succeeded")
		}
	}
	j.file = good
	if _, found, damaged := open(t, path, "boot"); len(found.Leases) != 1 || damaged != 0 {
		t.Errorf("found %d leases and %d damaged lines, want the one that was acknowledged", len(found.Leases), damaged)
	}
}

func FuzzRead(f *testing.F) {
	var text []byte
	for _, r := range story() {
		line, err := format(r)
		if err != nil {
			f.Fatal(err)
		}
		text = append(text, line...)
	}
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Add([]byte("00000000 {}\n\n  \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		state, _, err := read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		// Whatever was read can be written and read again.
		var again []byte
		for _, r := range state.records() {
			line, err := format(r)
			if err != nil {
				t.Skip("leases that JSON cannot carry")
			}
			again = append(again, line...)
		}
		same, damaged, err := read(bytes.NewReader(again))
		if err != nil || damaged != 0 || len(same.Leases) != len(state.Leases) || len(same.Spaces) != len(state.Spaces) {
			t.Fatalf("second reading differs: %d damaged lines, error %v", damaged, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j, _, _, err := Open(filepath.Join(b.TempDir(), "journal"), "boot")
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	for n := uint64(1); b.Loop(); n++ {
		if err := j.Append(acquire(n)); err != nil {
			b.Fatal(err)
		}
		if err := j.Append(Record{Op: Release, Numbers: []uint64{n}}); err != nil {
			b.Fatal(err)
		}
	}
}
