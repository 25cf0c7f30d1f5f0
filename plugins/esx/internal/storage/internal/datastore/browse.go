package datastore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// found is a file that the browser has found.
type found struct {
	// name is its path in the datastore.
	name string
	info types.BaseFileInfo
}

// spec asks for the files that are volumes, of some names, or all.
func spec(names ...string) *types.HostDatastoreBrowserSearchSpec {
	return &types.HostDatastoreBrowserSearchSpec{
		Query: []types.BaseFileQuery{
			&types.VmDiskFileQuery{Details: &types.VmDiskFileQueryFlags{CapacityKb: true, DiskType: true, Thin: types.NewBool(true)}},
			&types.IsoImageFileQuery{},
			&types.FloppyImageFileQuery{},
		},
		Details:      &types.FileQueryFlags{FileType: true, FileSize: true, Modification: true, FileOwner: false},
		MatchPattern: names,
	}
}

// browse finds all files that are volumes, or are about to be, by name.
func (p *Pool) browse(ctx context.Context) ([]found, error) {
	root := p.path("")
	result, err := p.place.Tasks.Result(ctx, fmt.Sprintf("look through '%s'", root),
		func(ctx context.Context, client *vim25.Client) (*object.Task, error) {
			return object.NewHostDatastoreBrowser(client, p.facts.Browser).SearchDatastoreSubFolders(ctx, root, spec())
		})
	if err != nil {
		return nil, err
	}
	folders, ok := result.(types.ArrayOfHostDatastoreBrowserSearchResults)
	if !ok {
		return nil, verr.New(verr.Internal, "look through '%s': the result is a %T", root, result).In(verr.FromStorage)
	}
	var all []found
	for _, folder := range folders.HostDatastoreBrowserSearchResults {
		all = append(all, p.files(folder)...)
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// files are the files of a folder that can be named. What is told of another datastore is left out.
func (p *Pool) files(folder types.HostDatastoreBrowserSearchResults) []found {
	path, ok := dspath.Within(p.name(), folder.FolderPath)
	if !ok {
		p.place.Log.Warn("folder of another datastore left out", "datastore", p.name(), "folder", folder.FolderPath)
		return nil
	}
	all := make([]found, 0, len(folder.File))
	for _, info := range folder.File {
		name := dspath.Child(path, info.GetFileInfo().Path)
		if err := dspath.Check(name); err != nil {
			p.place.Log.Warn("file left out", "datastore", p.name(), "error", err)
			continue
		}
		if _, err := formatOf(name); err == nil {
			all = append(all, found{name, info})
		}
	}
	return all
}

// find finds one file.
func (p *Pool) find(ctx context.Context, file string) (found, error) {
	folder, name := dspath.Split(file)
	path := p.path(folder)
	result, err := p.place.Tasks.Result(ctx, fmt.Sprintf("look for '%s'", p.path(file)),
		func(ctx context.Context, client *vim25.Client) (*object.Task, error) {
			return object.NewHostDatastoreBrowser(client, p.facts.Browser).SearchDatastore(ctx, path, spec(name))
		})
	if err != nil {
		return found{}, err
	}
	folderResult, ok := result.(types.HostDatastoreBrowserSearchResults)
	if !ok {
		return found{}, verr.New(verr.Internal, "look for '%s': the result is a %T", p.path(file), result).In(verr.FromStorage)
	}
	// The name is a pattern for the host, in which * and ? stand for others.
	for _, f := range folderResult.File {
		if f.GetFileInfo().Path == name {
			return found{file, f}, nil
		}
	}
	return found{}, verr.New(verr.NoStorageVol, "no storage vol with matching name '%s'", file).In(verr.FromStorage)
}

// volume is a file as clients know it. Of a VMDK the key is missing.
func (p *Pool) volume(f found) *pb.Volume {
	format, _ := formatOf(f.name) // it has one, or it would not have been found
	info := f.info.GetFileInfo()
	size := uint64(max(0, info.FileSize))
	v := &pb.Volume{
		Name: f.name, Key: p.path(f.name), Path: p.path(f.name), Type: pb.VolumeType_VOLUME_TYPE_FILE, Format: format,
		Capacity: size, Allocation: size,
	}
	if disk, ok := f.info.(*types.VmDiskFileInfo); ok {
		v.Capacity = uint64(max(0, disk.CapacityKb)) << 10
	}
	return v
}
