package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const flashDescriptor = `{"description": "d", "interface-types": ["uefi"],
	"mapping": {"device": "flash", "executable": {"filename": "/fw/CODE.fd", "format": "raw"},
		"nvram-template": {"filename": "/fw/VARS.fd", "format": "raw"}},
	"targets": [{"architecture": "i386", "machines": ["pc-q35-*"]}], "features": ["secure-boot"], "tags": []}`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFirmwareIsReadInOrderAndOverridden(t *testing.T) {
	vendor, admin := t.TempDir(), t.TempDir()
	write(t, filepath.Join(vendor, "60-a.json"), flashDescriptor)
	write(t, filepath.Join(vendor, "50-b.json"), strings.Replace(flashDescriptor, "CODE", "B", 1))
	write(t, filepath.Join(vendor, "40-masked.json"), flashDescriptor)
	write(t, filepath.Join(vendor, "30-broken.json"), "{")
	write(t, filepath.Join(vendor, "README"), "no descriptor")
	write(t, filepath.Join(admin, "40-masked.json"), "")
	write(t, filepath.Join(admin, "60-a.json"), strings.Replace(flashDescriptor, "CODE", "ADMIN", 1))
	list, err := Firmwares([]string{vendor, admin, "/nonexistent"})
	if err == nil || !strings.Contains(err.Error(), "30-broken.json") {
		t.Errorf("error %v", err)
	}
	if len(list) != 2 || list[0].Executable != "/fw/B.fd" || list[1].Executable != "/fw/ADMIN.fd" {
		t.Fatalf("found %+v", list)
	}
	f := list[1]
	if !f.Fits("i686", "pc-q35-7.2") || f.Fits("x86_64", "pc-q35-7.2") || f.Fits("i686", "pc-i440fx-7.2") {
		t.Errorf("targets %+v", f.Targets)
	}
	if f.NVRAMTemplate != "/fw/VARS.fd" || !f.Has("secure-boot") || f.Has("requires-smm") {
		t.Errorf("firmware %+v", f)
	}
}

func TestDescriptorsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, change := range map[string][2]string{
		"a relative path":     {"/fw/CODE.fd", "CODE.fd"},
		"an unknown device":   {`"flash"`, `"tape"`},
		"a broken pattern":    {"pc-q35-*", "pc-[q35"},
		"a number for a path": {`"/fw/VARS.fd"`, "7"},
	} {
		if _, err := parseDescriptor([]byte(strings.Replace(flashDescriptor, change[0], change[1], 1))); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(flashDescriptor))
	f.Add([]byte(`{"mapping": {"device": "memory", "filename": "/bios.bin"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fw, err := parseDescriptor(data)
		if err == nil && !strings.HasPrefix(fw.Executable, "/") {
			t.Fatalf("took %+v", fw)
		}
		fw.Fits("x86_64", "pc-q35-7.2")
	})
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"identity":"x","binary":{"path":"/q","machines":[{"name":"pc-1","alias":"pc"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if b := parseEntry(data, "/q", "x"); b != nil {
			b.Machine("pc")
			b.Aliases()
		}
	})
}
