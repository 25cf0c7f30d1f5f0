package vimtest

import (
	"cmp"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// browser is a HostDatastoreBrowser that finds what is there: with an empty pattern everything, sub-folders under names as hosts write
// them, and of disks their size and how they are stored.
type browser struct {
	*simulator.HostDatastoreBrowser
	registry *simulator.Registry
}

// addBrowser takes the place of a datastore's browser.
func addBrowser(registry *simulator.Registry, ds *simulator.Datastore) {
	if old, ok := registry.Get(ds.Browser).(*simulator.HostDatastoreBrowser); ok {
		registry.Put(&browser{old, registry})
	}
}

// SearchDatastoreTask lists a folder.
func (b *browser) SearchDatastoreTask(ctx *simulator.Context, req *types.SearchDatastore_Task) soap.HasFault {
	task := simulator.CreateTask(b, "searchDatastore", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		all, fault := b.search(req.DatastorePath, req.SearchSpec, false)
		if fault != nil {
			return nil, fault
		}
		return all[0], nil
	})
	return &methods.SearchDatastore_TaskBody{Res: &types.SearchDatastore_TaskResponse{Returnval: task.Run(ctx)}}
}

// SearchDatastoreSubFoldersTask lists a folder and those below it.
func (b *browser) SearchDatastoreSubFoldersTask(ctx *simulator.Context, req *types.SearchDatastoreSubFolders_Task) soap.HasFault {
	task := simulator.CreateTask(b, "searchDatastoreSubFolders", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		all, fault := b.search(req.DatastorePath, req.SearchSpec, true)
		if fault != nil {
			return nil, fault
		}
		return types.ArrayOfHostDatastoreBrowserSearchResults{HostDatastoreBrowserSearchResults: all}, nil
	})
	return &methods.SearchDatastoreSubFolders_TaskBody{Res: &types.SearchDatastoreSubFolders_TaskResponse{Returnval: task.Run(ctx)}}
}

// search lists folders. The first is the one that is asked for.
func (b *browser) search(text string, spec *types.HostDatastoreBrowserSearchSpec, deep bool) (
	[]types.HostDatastoreBrowserSearchResults, types.BaseMethodFault,
) {
	root, fault := file(b.registry, text)
	if fault != nil {
		return nil, fault
	}
	var p object.DatastorePath
	p.FromString(text)
	ds := datastoreOf(b.registry, p.Datastore).Reference()
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	var all []types.HostDatastoreBrowserSearchResults
	err := filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		below, _ := filepath.Rel(root, at)
		folder := path.Join(p.Path, filepath.ToSlash(below))
		name := "[" + p.Datastore + "]"
		if folder != "." && folder != "" {
			name += " " + folder + "/"
		}
		found, err := list(at, spec)
		all = append(all, types.HostDatastoreBrowserSearchResults{Datastore: &ds, FolderPath: name, File: found})
		if err == nil && !deep {
			return fs.SkipAll
		}
		return err
	})
	if err != nil || len(all) == 0 {
		return nil, &types.FileNotFound{FileFault: types.FileFault{File: text}}
	}
	return all, nil
}

// list lists the files of one folder that are asked for.
func list(dir string, spec *types.HostDatastoreBrowserSearchSpec) ([]types.BaseFileInfo, error) {
	entries, err := os.ReadDir(dir)
	var all []types.BaseFileInfo
	for _, entry := range entries {
		if !matches(entry.Name(), spec.MatchPattern) {
			continue
		}
		if info := fileInfo(filepath.Join(dir, entry.Name()), entry, spec.Query); info != nil {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b types.BaseFileInfo) int { return cmp.Compare(a.GetFileInfo().Path, b.GetFileInfo().Path) })
	return all, err
}

// matches says whether a name matches one of the patterns, in which * and ? alone stand for others; no pattern is matched by all.
func matches(name string, patterns []string) bool {
	escape := strings.NewReplacer("[", "\\[", "]", "\\]", "\\", "\\\\")
	for _, pattern := range patterns {
		if ok, err := path.Match(escape.Replace(pattern), name); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}

// fileInfo is what is told of a file, nil if it is none that is asked for.
func fileInfo(at string, entry fs.DirEntry, queries []types.BaseFileQuery) types.BaseFileInfo {
	stat, err := entry.Info()
	if err != nil {
		return nil
	}
	modified := stat.ModTime()
	info := types.FileInfo{Path: entry.Name(), FileSize: stat.Size(), Modification: &modified}
	for _, query := range queries {
		switch query.(type) {
		case *types.VmDiskFileQuery:
			if !entry.IsDir() && path.Ext(at) == ".vmdk" && !strings.HasSuffix(at, "-flat.vmdk") {
				return diskInfo(at, info)
			}
		case *types.IsoImageFileQuery:
			if !entry.IsDir() && path.Ext(at) == ".iso" {
				return &types.IsoImageFileInfo{FileInfo: info}
			}
		case *types.FloppyImageFileQuery:
			if !entry.IsDir() && path.Ext(at) == ".flp" {
				return &types.FloppyImageFileInfo{FileInfo: info}
			}
		case *types.FolderFileQuery:
			if entry.IsDir() {
				return &types.FolderFileInfo{FileInfo: info}
			}
		default:
			return &info
		}
	}
	if len(queries) == 0 {
		return &info
	}
	return nil
}

// blockSize is the least room of a file.
const blockSize = 4096

// diskInfo is what is told of a disk: its size, and the room that its extents take.
func diskInfo(at string, info types.FileInfo) types.BaseFileInfo {
	disk := &types.VmDiskFileInfo{FileInfo: info}
	d, err := descriptorOf(at)
	if err != nil {
		return disk
	}
	disk.CapacityKb = d.Capacity() / 1024
	disk.Thin = types.NewBool(d.DDB[thinKey] == "1")
	disk.FileSize = 0
	for _, extent := range d.Extent {
		if stat, err := os.Stat(filepath.Join(filepath.Dir(at), filepath.Base(extent.Info))); err == nil {
			if disk.FileSize += stat.Size(); *disk.Thin {
				// Hosts tell of no disk that it takes no room, and libvirt's own driver fails where one does.
				disk.FileSize = max(blockSize, stat.Sys().(*syscall.Stat_t).Blocks*512)
			}
		}
	}
	return disk
}

// descriptorOf reads the descriptor of a disk.
func descriptorOf(at string) (*vmdk.Descriptor, error) {
	f, err := os.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return vmdk.ParseDescriptor(f)
}
