package image

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/sdk/image"
)

// create makes an image with the real qemu-img.
func create(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("no qemu-img")
	}
	out, err := exec.CommandContext(t.Context(), "qemu-img", append([]string{"create", "-q"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestBackingOfRealImages(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create(t, "-f", "raw", at("base.raw"), "1M")
	create(t, "-f", "qcow2", "-b", at("base.raw"), "-F", "raw", at("middle.qcow2"))
	create(t, "-f", "qcow2", "-o", "compat=0.10", "-b", "middle.qcow2", "-F", "qcow2", at("old.qcow2"))
	create(t, "-f", "qcow2", at("alone.qcow2"), "1M")
	for name, want := range map[string]*Backing{
		"old.qcow2": {at("middle.qcow2"), QCOW2}, "middle.qcow2": {at("base.raw"), Raw}, "alone.qcow2": nil,
	} {
		got, err := ReadBacking(at(name), QCOW2)
		if err != nil || (got == nil) != (want == nil) || (got != nil && *got != *want) {
			t.Errorf("%s is backed by %v, %v; want %v", name, got, err, want)
		}
	}
	if got, err := ReadBacking(at("middle.qcow2"), Raw); got != nil || err != nil {
		t.Errorf("a raw image was looked into: %v, %v", got, err)
	}
	if _, err := ReadBacking(at("base.raw"), QCOW2); !errors.Is(err, image.ErrFormat) {
		t.Errorf("a raw image as qcow2: %v", err)
	}
}

func TestBackingImagesWithoutAFormatAreRawOrRefused(t *testing.T) {
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	header := make([]byte, 512)
	copy(header, "QFI\xfb")
	header[7], header[15], header[19], header[23] = 2, 200, 4, 16
	copy(header[200:], "base")
	if err := os.WriteFile(top, header, 0o600); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]error{"": nil, "plain text": nil, "QFI\xfb....": ErrAmbiguous, "KDMV": ErrAmbiguous} {
		if err := os.WriteFile(base, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadBacking(top, QCOW2)
		if !errors.Is(err, want) || (err == nil && got.Format != Raw) {
			t.Errorf("base that begins with %q: %v, %v", content, got, err)
		}
	}
}

func TestBackingImagesElsewhereAreRefused(t *testing.T) {
	for _, name := range []string{"nbd://host/x", `json:{"driver":"file"}`, "http:x", "rbd:pool/image", ""} {
		if p, err := localPath(name); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q became %q, %v", name, p, err)
		}
	}
	for name, want := range map[string]string{"/a:b": "/a:b", "./a:b": "./a:b", "file:/x": "/x", "base": "base"} {
		if p, err := localPath(name); err != nil || p != want {
			t.Errorf("%q became %q, %v", name, p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	header := make([]byte, 256)
	copy(header, "QFI\xfb")
	header[7], header[14], header[19], header[23], header[103] = 3, 1, 4, 16, 104
	f.Add(header)
	f.Fuzz(func(t *testing.T, content []byte) {
		b, err := parse(bytes.NewReader(content))
		if err == nil && b != nil && (b.Path == "" || len(b.Path) > 1023 || len(b.Format) > 64) {
			t.Errorf("read %+v", b)
		}
	})
}
