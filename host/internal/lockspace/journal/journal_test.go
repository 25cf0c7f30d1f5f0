package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

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
			t.Errorf("found (-want +got), %d damaged places:\n%s", damaged, diff)
		}
		want.Boot = boot
	}
}

const salt = 0x0123456789abcdef

// file returns a journal of records, each in a frame of its own, and where the frames end.
func file(records []Record) (text []byte, ends []int) {
	text = newFile(salt)
	ends = []int{len(text)}
	for _, r := range records {
		text = appendFrame(text, salt, appendRecord(nil, &r))
		ends = append(ends, len(text))
	}
	return text, ends
}

func TestTornAtEveryByteKeepsEarlierRecords(t *testing.T) {
	text, ends := file(story())
	for end := headSize; end <= len(text); end++ {
		whole := 0
		for n, e := range ends {
			if e <= end {
				whole = n
			}
		}
		// A frame may end with bytes that fill it up.
		if whole+1 < len(ends) && end >= ends[whole+1]-frameHead+1 {
			continue
		}
		got, damaged := read(text[:end])
		if diff := cmp.Diff(fold(story()[:whole]...), got); diff != "" {
			t.Fatalf("torn at byte %d (-want +got):\n%s", end, diff)
		}
		if torn := end != ends[whole]; (damaged > 0) != torn {
			t.Fatalf("torn at byte %d: %d damaged places", end, damaged)
		}
	}
}

// A writer that is killed leaves a frame without a length.
func TestFrameThatWasBeingWrittenDoesNotCount(t *testing.T) {
	text, ends := file(story())
	for n := range story() {
		torn := append([]byte{}, text[:ends[n+1]]...)
		copy(torn[ends[n]:], []byte{0, 0, 0, 0})
		got, damaged := read(append(torn, make([]byte, 100)...))
		if diff := cmp.Diff(fold(story()[:n]...), got); diff != "" || damaged != 1 {
			t.Errorf("frame %d without a length: %d damaged places (-want +got):\n%s", n, damaged, diff)
		}
	}
}

func TestDamageCostsOneRecord(t *testing.T) {
	records := story()
	text, ends := file(records)
	for i := range records {
		rest := append(append([]Record{}, records[:i]...), records[i+1:]...)
		for _, at := range []int{ends[i], ends[i] + 5, ends[i] + frameHead + 1} {
			bad := append([]byte{}, text...)
			bad[at] ^= 1
			got, damaged := read(bad)
			if diff := cmp.Diff(fold(rest...), got); damaged != 1 || diff != "" {
				t.Errorf("record %d damaged at byte %d: %d damaged places (-want +got):\n%s", i, at, damaged, diff)
			}
		}
	}
}

// Somebody who chooses names must not be able to hide records in them that count once the frame around is damaged.
func TestNameIsNeverTakenForARecord(t *testing.T) {
	for _, guess := range []uint64{0, salt ^ 1} {
		forged := appendFrame(nil, guess, appendRecord(nil, &Record{Op: Release, Numbers: []uint64{1}}))
		evil := acquire(2)
		for pad := range frameHead {
			evil.Owner.Name = string(append(make([]byte, pad), forged...))
			text, ends := file([]Record{acquire(1), evil})
			text[ends[1]] ^= 0xff
			if got, _ := read(text); len(got.Leases) != 1 {
				t.Fatalf("forged record counts: %v", got.Leases)
			}
		}
	}
}

func TestNumbersAreNotUsedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	for _, r := range []Record{acquire(41), {Op: Release, Numbers: []uint64{41}}} {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		j.Close()
		var found State
		if j, found, _ = open(t, path, "boot"); found.Next != 42 {
			t.Errorf("next number is %d", found.Next)
		}
	}
}

func TestJournalOfAnEarlierProgramIsRead(t *testing.T) {
	var text []byte
	for _, r := range append([]Record{{Op: Boot, Boot: "boot"}}, story()...) {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		text = fmt.Appendf(text, "%08x %s\n", crc32.Checksum(line, castagnoli), line)
	}
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, append(text, "torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fold(story()...)
	want.Boot = "boot"
	for n := range 2 {
		j, found, damaged := open(t, path, "boot")
		if diff := cmp.Diff(want, found); diff != "" || damaged != 1-n {
			t.Errorf("found (-want +got), %d damaged places:\n%s", damaged, diff)
		}
		j.Close()
	}
}

func TestJournalStaysShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	want := newState()
	for _, r := range story() {
		want.apply(r)
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	for n := uint64(100); n < 20000; n++ {
		if err := j.Append(acquire(n)); err != nil {
			t.Fatal(err)
		}
		if err := j.Append(Record{Op: Release, Numbers: []uint64{n}}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(3*chunk + slack); st.Size() > most {
		t.Errorf("journal of nothing has %d bytes", st.Size())
	}
	want.Boot, want.Next = "boot", 20000
	if _, found, damaged := open(t, path, "boot"); damaged != 0 || cmp.Diff(want, found) != "" {
		t.Errorf("found (-want +got), %d damaged places:\n%s", damaged, cmp.Diff(want, found))
	}
}

func TestJournalGrowsWithItsLeases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	const many = 30000
	for n := range uint64(many) {
		if err := j.Append(acquire(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, damaged := open(t, path, "boot"); damaged != 0 || len(found.Leases) != many {
		t.Errorf("found %d leases, %d damaged places", len(found.Leases), damaged)
	}
}

func TestFullDiskIsAnErrorAndLeavesNoTrace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("journal", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs a small file system: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "journal")
	j, _, _ := open(t, path, "boot")
	acknowledged := uint64(0)
	for {
		if err := j.Append(acquire(acknowledged + 1)); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("Append to a full disk: %v", err)
			}
			break
		}
		acknowledged++
	}
	if acknowledged < 1000 {
		t.Errorf("only %d records on a disk of 1 MiB", acknowledged)
	}
	// Old records make room for new ones when they do not count any more, once there is space to write the short form.
	check := func() {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found, damaged := read(text); uint64(len(found.Leases)) != acknowledged || damaged != 0 {
			t.Errorf("found %d leases and %d damaged places, want %d", len(found.Leases), damaged, acknowledged)
		}
	}
	check()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	acknowledged++
	if err := j.Append(acquire(acknowledged)); err != nil {
		t.Errorf("Append when there is room again: %v", err)
	}
	check()
}

// fullDisk returns a folder whose file system has a journal of what story says, and a function that fills it and one that makes room.
func fullDisk(t *testing.T) (path string, fill, empty func()) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("journal", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs a small file system: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path = filepath.Join(dir, "journal")
	j, _, _ := open(t, path, "boot")
	for _, r := range story() {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	ballast := filepath.Join(dir, "ballast")
	fill = func() {
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
	}
	return path, fill, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskIsNoErrorOfOpen(t *testing.T) {
	for _, c := range []struct {
		name, boot string
		damaged    int
		spoil      func(text []byte, used int)
	}{
		{name: "whole", boot: "boot"},
		{name: "another boot", boot: "next boot"},
		{name: "frame that was being written", boot: "boot", damaged: 1, spoil: func(text []byte, used int) { text[used+frameHead+3] = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, fill, empty := fullDisk(t)
			if c.spoil != nil {
				spoil(t, path, c.spoil)
			}
			// A part of a next file is in nobody's way.
			if err := os.WriteFile(path+".new", make([]byte, 8<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			fill()
			want := fold(story()...)
			want.Boot = "boot"
			j, found, damaged := open(t, path, c.boot)
			if diff := cmp.Diff(want, found); diff != "" || damaged != c.damaged {
				t.Errorf("found (-want +got), %d damaged places:\n%s", damaged, diff)
			}
			if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("part of a next file: %v", err)
			}
			number := uint64(100)
			add := func() error {
				r := acquire(number)
				err := j.Append(r)
				if err == nil {
					want.apply(r)
					number++
				}
				return err
			}
			var err error
			for err == nil {
				err = add()
			}
			if !errors.Is(err, unix.ENOSPC) || number < 1000 {
				t.Errorf("Append after %d records: %v, want ENOSPC when the file's own room is used", number-100, err)
			}
			empty()
			if err := add(); err != nil {
				t.Errorf("Append when there is room again: %v", err)
			}
			want.Boot = c.boot
			if _, found, _ := open(t, path, c.boot); cmp.Diff(want, found) != "" {
				t.Errorf("found then (-want +got):\n%s", cmp.Diff(want, found))
			}
		})
	}
}

// A hole is no room: to write to it would be an error of the memory.
func TestHolesOfAFileAreNoRoom(t *testing.T) {
	path, fill, empty := fullDisk(t)
	var used int
	spoil(t, path, func(_ []byte, end int) { used = end })
	if err := errors.Join(os.Truncate(path, int64(used)), os.Truncate(path, chunk)); err != nil {
		t.Fatal(err)
	}
	fill()
	j, _, _ := open(t, path, "boot")
	if err := j.Append(acquire(100)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Append to a hole: %v, want ENOSPC", err)
	}
	empty()
	if err := j.Append(acquire(100)); err != nil {
		t.Errorf("Append when there is room again: %v", err)
	}
}

// spoil changes a journal's file, given where the next frame would begin.
func spoil(t *testing.T, path string, change func(text []byte, used int)) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, used := frames(text[headSize:], saltOf(text), func([]byte) {})
	change(text, headSize+used)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenGoesOnWithASoundFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	inode := func(boot string) uint64 {
		t.Helper()
		j, _, _ := open(t, path, boot)
		j.Close()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	first := inode("boot")
	if inode("boot") != first {
		t.Error("a sound file was written anew")
	}
	if inode("next boot") == first {
		t.Error("another boot's file was not written anew")
	}
	first = inode("next boot")
	spoil(t, path, func(text []byte, used int) { text[used+1] = 1 })
	if inode("next boot") == first {
		t.Error("a damaged file was not written anew")
	}
}

// A file that was cut short has room for what is appended all the same.
func TestFileThatWasCutShortIsGoneOnWith(t *testing.T) {
	for _, cut := range []int{0, 1, 5} {
		path := filepath.Join(t.TempDir(), "journal")
		text, ends := file(append([]Record{{Op: Boot, Boot: "boot"}}, story()...))
		text = text[:ends[len(ends)-1]]
		if err := os.WriteFile(path, text[:len(text)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, want, _ := open(t, path, "boot")
		for n := uint64(10); n < 10000; n++ {
			want.apply(acquire(n))
			if err := j.Append(acquire(n)); err != nil {
				t.Fatalf("cut by %d bytes: append %d: %v", cut, n, err)
			}
		}
		if _, found, damaged := open(t, path, "boot"); damaged != 0 || cmp.Diff(want, found) != "" {
			t.Errorf("cut by %d bytes: found (-want +got), %d damaged places:\n%s", cut, damaged, cmp.Diff(want, found))
		}
	}
}

// A file that somebody cuts short under the mapping ends the journal, not the daemon.
func TestLostMappingIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path, "boot")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := j.Append(acquire(1)); !errors.Is(err, ErrBroken) {
			t.Errorf("Append: %v, want ErrBroken", err)
		}
	}
}

func TestRecordThatIsTooLongIsRefused(t *testing.T) {
	j, _, _ := open(t, filepath.Join(t.TempDir(), "journal"), "boot")
	huge := acquire(1)
	huge.Owner.Name = strings.Repeat("x", maxFrame)
	if err := j.Append(huge); !errors.Is(err, errTooLong) {
		t.Errorf("Append: %v", err)
	}
	if err := j.Append(acquire(2)); err != nil {
		t.Error(err)
	}
	j.Close()
	if err := j.Append(acquire(3)); !errors.Is(err, ErrBroken) {
		t.Errorf("Append to a closed journal: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	text, _ := file(story())
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Add([]byte("00000000 {}\n\n  \n"))
	// With a right checksum around anything.
	f.Add(appendFrame(newFile(salt), salt, []byte{codes[Acquire], 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, text []byte) {
		state, _ := read(text)
		again(t, state)
		// The same as the content of a sound frame.
		content := text[:min(len(text), maxFrame)]
		framed := appendFrame(newFile(salt), salt, content)
		state, _ = read(framed)
		again(t, state)
		d := newDigest(state.Boot)
		frames(framed[headSize:], salt, d.add)
		short, damaged := read(d.dump(salt))
		if len(content) > 0 && damaged != 0 || cmp.Diff(state.Leases, short.Leases) != "" || cmp.Diff(state.Spaces, short.Spaces) != "" {
			t.Fatalf("shortest form differs, %d damaged places:\n%s", damaged, cmp.Diff(state, short))
		}
	})
}

// again expects that whatever was read can be written and read again.
func again(t *testing.T, state State) {
	t.Helper()
	same, damaged := read(state.dump(salt))
	if damaged != 0 || cmp.Diff(state.Leases, same.Leases) != "" || cmp.Diff(state.Spaces, same.Spaces) != "" || state.Boot != same.Boot {
		t.Fatalf("second reading differs, %d damaged places:\n%s", damaged, cmp.Diff(state, same))
	}
}

func BenchmarkAppend(b *testing.B) {
	b.ReportAllocs()
	j, _, _, err := Open(filepath.Join(b.TempDir(), "journal"), "boot")
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	r := acquire(1)
	for n := uint64(1); b.Loop(); n++ {
		r.Leases[0].Number = n
		if err := j.Append(r); err != nil {
			b.Fatal(err)
		}
		if err := j.Append(Record{Op: Release, Numbers: []uint64{n}}); err != nil {
			b.Fatal(err)
		}
	}
}
