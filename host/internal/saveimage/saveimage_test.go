package saveimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var header = Header{
	ID: ID{1, 2, 3}, Driver: "qemu", Running: true, Saved: time.Unix(1_700_000_000, 0), XML: "<domain>\n  <name>guest</name>\n</domain>\n",
}

// make writes a complete file and returns its path.
func makeFile(t *testing.T, stream string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := Create(path, &header)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f.Writer(), stream); err != nil {
		t.Fatal(err)
	}
	if err := f.Finish("raw"); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t *testing.T, open func(string) (*File, error), path string) *File {
	t.Helper()
	f, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	path := makeFile(t, "the stream")
	f := mustOpen(t, Open, path)
	want := header
	want.Format = "raw"
	if diff := cmp.Diff(want, f.Header); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		s, err := f.Stream()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(s)
		if err != nil || string(text) != "the stream" {
			t.Errorf("stream is %q, error %v", text, err)
		}
		s.Close()
	}
	if !f.Aligned() {
		t.Error("the stream is not aligned")
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode is %v, error %v", info.Mode(), err)
	}
	if _, err := Create(path, &header); !errors.Is(err, os.ErrExist) {
		t.Errorf("an image was made over another: %v", err)
	}
}

func TestUnfinishedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	f, err := Create(path, &header)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f.Writer(), "half of it"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrIncomplete) {
		t.Errorf("open: %v, want ErrIncomplete", err)
	}
}

func TestUpdateKeepsTheStream(t *testing.T) {
	path := makeFile(t, "the stream")
	for _, xml := range []string{"<domain/>", strings.Repeat("x", slotRoom), "<domain><name>guest</name></domain>"} {
		f := mustOpen(t, OpenUpdate, path)
		h := f.Header
		h.XML, h.Running, h.Format = xml, false, "not to be changed"
		if err := f.Update(&h); err != nil {
			t.Fatal(err)
		}
		f.Close()
		again := mustOpen(t, Open, path)
		if again.Header.XML != xml || again.Header.Running || again.Header.Format != "raw" || again.length != uint64(len("the stream")) {
			t.Errorf("after an update: %+v", again.Header)
		}
		again.Close()
	}
	f := mustOpen(t, OpenUpdate, path)
	h := f.Header
	h.XML = strings.Repeat("x", maxXML)
	if err := f.Update(&h); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a definition of %d bytes: %v", len(h.XML), err)
	}
}

// TestTornUpdate destroys the slot that an update was writing: the header before it is good.
func TestTornUpdate(t *testing.T) {
	path := makeFile(t, "the stream")
	f := mustOpen(t, OpenUpdate, path)
	at := f.layout.slotOffset(f.sequence + 1)
	h := f.Header
	h.XML = "<new/>"
	if err := f.Update(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := f.file.WriteAt([]byte("torn"), at+slotHeader); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := mustOpen(t, Open, path).Header.XML; got != header.XML {
		t.Errorf("definition is %q, want that before the update", got)
	}
}

func TestOneUpdateAtATime(t *testing.T) {
	path := makeFile(t, "")
	first := mustOpen(t, OpenUpdate, path)
	if _, err := Open(path); !errors.Is(err, ErrBusy) {
		t.Errorf("open during an update: %v", err)
	}
	if id, err := Identify(path); err != nil || id != header.ID {
		t.Errorf("identify during an update: %v, %v", id, err)
	}
	first.Close()
	mustOpen(t, Open, path)
	mustOpen(t, Open, path)
	if _, err := OpenUpdate(path); !errors.Is(err, ErrBusy) {
		t.Errorf("update while it is read: %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	good, err := os.ReadFile(makeFile(t, "the stream"))
	if err != nil {
		t.Fatal(err)
	}
	slots := layoutFor(len(header.XML))
	for name, tc := range map[string]struct {
		spoil func([]byte) []byte
		want  error
	}{
		"nothing":                  {func([]byte) []byte { return nil }, ErrNotImage},
		"another file":             {func([]byte) []byte { return []byte("#!/bin/sh\nexit 0\n") }, ErrNotImage},
		"the magic alone":          {func(b []byte) []byte { return b[:16] }, ErrCorrupt},
		"a version to come":        {func(b []byte) []byte { b[19] = 2; return b }, ErrVersion},
		"another size of headers":  {func(b []byte) []byte { b[21]++; return b }, ErrCorrupt},
		"both headers spoilt":      {func(b []byte) []byte { b[slots.slotOffset(0)]++; b[slots.slotOffset(1)]++; return b }, ErrCorrupt},
		"the last header spoilt":   {func(b []byte) []byte { b[slots.slotOffset(0)+slotHeader]++; return b }, ErrIncomplete},
		"a stream that is cut off": {func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		"no stream at all":         {func(b []byte) []byte { return b[:slots.streamOffset-1] }, ErrCorrupt},
		"a cut-off save":           {func([]byte) []byte { return []byte(foreignPartial + strings.Repeat("\x00", 200)) }, ErrIncomplete},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, tc.spoil(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); !errors.Is(err, tc.want) {
				t.Errorf("open: %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotImage) {
		t.Errorf("a folder: %v", err)
	}
}

// foreign makes a file as libvirt does.
func foreign(order binary.ByteOrder, compression uint32, xml, stream string) []byte {
	b := make([]byte, foreignHeader)
	copy(b, foreignMagic)
	padding := make([]byte, 1000)
	for n, v := range []uint32{2, uint32(len(xml) + 1 + len(padding)), 1, compression, uint32(len(xml) + 1)} {
		order.PutUint32(b[16+4*n:], v)
	}
	return append(append(append(b, xml+"\x00"...), padding...), stream...)
}

func TestForeignFile(t *testing.T) {
	for name, order := range map[string]binary.ByteOrder{"little endian": binary.LittleEndian, "big endian": binary.BigEndian} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, foreign(order, 1, header.XML, "the stream"), 0o600); err != nil {
				t.Fatal(err)
			}
			f := mustOpen(t, Open, path)
			want := Header{Driver: "qemu", Format: "gzip", Running: true, XML: header.XML}
			if diff := cmp.Diff(want, f.Header); diff != "" || !f.Foreign || f.Aligned() {
				t.Errorf("foreign %v, aligned %v: %s", f.Foreign, f.Aligned(), diff)
			}
			s, err := f.Stream()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if text, err := io.ReadAll(s); err != nil || string(text) != "the stream" {
				t.Errorf("stream is %q, error %v", text, err)
			}
			f.Close()
			if _, err := OpenUpdate(path); !errors.Is(err, ErrForeign) {
				t.Errorf("update: %v", err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, foreign(binary.LittleEndian, 9, header.XML, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrVersion) {
		t.Errorf("an unknown compression: %v", err)
	}
}

// FuzzRead: whatever a file holds, it is read within bounds, and what is read of it is within the file.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "image")
	made, err := Create(path, &header)
	if err != nil {
		f.Fatal(err)
	}
	if err := made.Finish("raw"); err != nil {
		f.Fatal(err)
	}
	made.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(foreign(binary.LittleEndian, 0, header.XML, "stream"))
	f.Add([]byte(magicText))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got File
		if err := got.read(bytes.NewReader(b), int64(len(b))); err != nil {
			return
		}
		if len(got.Header.XML) > maxXML || got.layout.streamOffset+int64(got.length) > int64(len(b)) || got.layout.streamOffset < 0 {
			t.Errorf("of %d bytes: %+v", len(b), got)
		}
	})
}
