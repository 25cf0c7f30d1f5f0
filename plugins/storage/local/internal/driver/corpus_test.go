package driver

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
)

// TestMountsLikeLibvirt compares the arguments of mount(8) with libvirt's. The order of options is no matter, and "--" is our own.
func TestMountsLikeLibvirt(t *testing.T) {
	for _, name := range corpustest.Files(t, "storagepoolxml2argvdata", "pool-*-linux.argv") {
		base := strings.TrimSuffix(filepath.Base(name), "-linux.argv")
		text := corpustest.Read(t, filepath.Join(filepath.Dir(name), "..", "storagepoolxml2xmlin", base+".xml"))
		p, err := define.ParsePool(text)
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		want := words(strings.Fields(strings.ReplaceAll(corpustest.Read(t, name), "\\\n", ""))[1:])
		if got := words(mountArguments(p)); !slices.Equal(got, want) {
			t.Errorf("%s: mount %q, libvirt has %q", base, got, want)
		}
	}
}

// words splits lists of options, and sorts.
func words(args []string) []string {
	var all []string
	for _, a := range args {
		if a != "--" {
			all = append(all, strings.Split(a, ",")...)
		}
	}
	slices.Sort(all)
	return all
}
