package arch

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// wall forbids imports between folders.
type wall struct {
	name string
	// from is a folder; to are import paths under the module that files of it must not import.
	from string
	to   []string
}

var walls = []wall{
	{"the SDK knows nothing of the core", "sdk/", []string{"host/", "plugins/"}},
	{"a plugin knows nothing of the core", "plugins/", []string{"host/"}},
	{"the core knows no plugin", "host/", []string{"plugins/"}},
}

func TestFoldersKeepTheirWalls(t *testing.T) {
	all := sources(t)
	for _, w := range walls {
		t.Run(w.name, func(t *testing.T) {
			for _, s := range all {
				if !strings.HasPrefix(s.path, w.from) {
					continue
				}
				for _, imported := range s.imports() {
					for _, to := range w.to {
						if strings.HasPrefix(imported, module+"/"+to) {
							t.Errorf("%s imports %s", s.path, imported)
						}
					}
				}
			}
		})
	}
}

// families are folders under plugins that hold one plugin in each of their folders; what the plugins of a family share is in a folder
// "internal" beside them.
var families = []string{"storage", "interface", "lock"}

// pluginOf returns the folder of the plugin that a path under the module belongs to, or "".
func pluginOf(path string) string {
	parts := strings.Split(path, "/")
	if parts[0] != "plugins" || len(parts) < 2 {
		return ""
	}
	n := 2
	if slices.Contains(families, parts[1]) {
		n = 3
	}
	return strings.Join(parts[:min(n, len(parts))], "/")
}

func TestPluginsDoNotImportEachOther(t *testing.T) {
	for _, s := range sources(t) {
		own := pluginOf(s.dir())
		if own == "" {
			continue
		}
		for _, imported := range s.imports() {
			other := pluginOf(strings.TrimPrefix(imported, module+"/"))
			if other != "" && other != own && other != path.Join(path.Dir(own), "internal") {
				t.Errorf("%s imports %s", s.path, imported)
			}
		}
	}
}

// sdkBudget is all that the SDK may import besides the standard library and itself: an author of a driver carries no more.
var sdkBudget = []string{
	"github.com/google/uuid",
	"github.com/hashicorp/go-hclog",
	"github.com/hashicorp/go-plugin",
	"golang.org/x/sys",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
	"libvirt.org/go/libvirtxml",
}

func TestSDKStaysLight(t *testing.T) {
	for _, s := range sources(t) {
		if !strings.HasPrefix(s.path, "sdk/") || s.test() {
			continue
		}
		for _, imported := range s.imports() {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") || within(imported, module+"/sdk") {
				continue
			}
			if !slices.ContainsFunc(sdkBudget, func(allowed string) bool { return within(imported, allowed) }) {
				t.Errorf("%s imports %s, which is not in the SDK's budget", s.path, imported)
			}
		}
	}
}

// only lists imports that are the business of a few folders.
var only = map[string][]string{
	"github.com/ceph/go-ceph":        {"plugins/storage/rbd/internal/librados"},
	"github.com/hashicorp/go-plugin": {"host/internal/launch", "sdk/plugin"},
	"go.etcd.io/bbolt":               {"host/internal/catalog"},
	"go.etcd.io/etcd":                {"plugins/lock/etcd"},
	"github.com/vmware/govmomi":      {"plugins/esx"},
}

func TestSomeModulesHaveOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, imported := range s.imports() {
			for owned, owners := range only {
				if within(imported, owned) && !slices.ContainsFunc(owners, func(dir string) bool { return within(s.dir(), dir) }) {
					t.Errorf("%s imports %s, which belongs to %v", s.path, imported, owners)
				}
			}
		}
	}
}

// within says whether a path is a folder or lies in it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}
