package vmx_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// corpora is where libvirt's test data is when it is beside the repository.
const corpora = "../../../../../shared/corpora/libvirt-9.0.0"

// corpusFiles returns the files of a folder of the corpora, or skips the test if they are not here.
func corpusFiles(t testing.TB, folder, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(corpora, folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	return names
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// testContext is a host's as libvirt's tests have it: the .vmx file is in "directory" on "datastore", a volume "missing" is gone.
func testContext(name, text string) vmx.Context {
	ctx := vmx.Context{
		Names: vmx.Folder{Datastore: "datastore", Path: "directory", Lookup: func(volume string) (string, bool) {
			return volume, volume != "missing"
		}},
		SCSIModel: func(*libvirtxml.DomainDisk) (string, error) { return "lsilogic", nil },
	}
	if name == "datacenterpath" {
		ctx.DatacenterPath = "folder1/folder2/datacenter1"
	}
	for line := range strings.Lines(text) {
		if version, ok := strings.CutPrefix(line, `virtualHW.version = "`); ok {
			for _, digit := range strings.TrimRight(version, "\"\n") {
				ctx.HardwareVersion = 10*ctx.HardwareVersion + int(digit-'0')
			}
		}
	}
	return ctx
}

// unmet are pairs of the corpora that we do not meet, with the reason.
var unmet = map[string]string{}

// judge fails the test for a pair that differs, and for one in the list of those that do if it does not any more.
func judge(t *testing.T, name, ours, want string) {
	t.Helper()
	switch reason, listed := unmet[name]; {
	case ours != want && !listed:
		t.Errorf("%s differs\n--- ours\n%s\n--- libvirt's\n%s", name, ours, want)
	case ours == want && listed:
		t.Errorf("%s passes now, it was listed because %s", name, reason)
	}
}

func TestDomainsAreReadAsLibvirtDoes(t *testing.T) {
	for _, file := range corpusFiles(t, "vmx2xmldata", "*.vmx") {
		name := strings.TrimSuffix(filepath.Base(file), ".vmx")
		text := read(t, file)
		doc, err := vmx.ToXML(text, testContext(name, text))
		expected := strings.TrimSuffix(file, ".vmx") + ".xml"
		if _, missing := os.Stat(expected); missing != nil {
			if err == nil {
				t.Errorf("%s is accepted, libvirt refuses it", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := domxml.Reformat(read(t, expected))
		if err != nil {
			t.Fatal(err)
		}
		judge(t, name, doc, want)
	}
}

func TestFilesAreWrittenAsLibvirtDoes(t *testing.T) {
	for _, file := range corpusFiles(t, "xml2vmxdata", "*.xml") {
		name := strings.TrimSuffix(filepath.Base(file), ".xml")
		want := read(t, strings.TrimSuffix(file, ".xml")+".vmx")
		text, err := vmx.Format(read(t, file), testContext(name, want))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		judge(t, name, text, want)
	}
}
