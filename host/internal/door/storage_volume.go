package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/images"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// volumeGetPhysical is the flag of virStorageVolGetInfoFlags that asks for the size of the file in place of what it takes on disk.
const volumeGetPhysical = 1

// volume finds the volume that a client means, by its name in a pool and its key.
func (s *session) volume(ctx context.Context, ref libvirt.StorageVol) (*images.Volume, error) {
	p, err := s.connection().Images.ByName(ref.Pool)
	if err != nil {
		return nil, err
	}
	v, err := p.Volume(ctx, ref.Name)
	if err == nil && v.Path != ref.Key {
		return nil, verr.New(verr.NoStorageVol, "no storage vol with matching key '%s'", ref.Key).In(verr.FromStorage)
	}
	return v, err
}

func volumeReference(v *images.Volume) libvirt.StorageVol {
	return libvirt.StorageVol{Pool: v.Pool.Name, Name: v.Name, Key: v.Path}
}

// volumeNames returns the names of a pool's volumes.
func (s *session) volumeNames(ctx context.Context, ref libvirt.StoragePool) (*images.Pool, []string, error) {
	p, err := s.pool(ref)
	if err != nil {
		return nil, nil, err
	}
	names, err := p.Volumes(ctx)
	if err == nil && len(names) > maxVolumes {
		err = verr.New(verr.RPC, "too many storage volumes %d for limit %d", len(names), maxVolumes)
	}
	return p, names, err
}

func storagePoolNumOfVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolNumOfVolumesArgs) (*libvirt.StoragePoolNumOfVolumesRet, error) {
	_, names, err := s.volumeNames(ctx, args.Pool)
	return &libvirt.StoragePoolNumOfVolumesRet{Num: int32(len(names))}, err
}

func storagePoolListVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolListVolumesArgs) (*libvirt.StoragePoolListVolumesRet, error) {
	if err := room(args.Maxnames, "names"); err != nil {
		return nil, err
	}
	_, names, err := s.volumeNames(ctx, args.Pool)
	return &libvirt.StoragePoolListVolumesRet{Names: firstOf(names, args.Maxnames)}, err
}

func storagePoolListAllVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolListAllVolumesArgs) (*libvirt.StoragePoolListAllVolumesRet, error) {
	if err := checkFlags(args.Flags, 0, "virStoragePoolListAllVolumes"); err != nil {
		return nil, err
	}
	p, names, err := s.volumeNames(ctx, args.Pool)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StoragePoolListAllVolumesRet{Ret: uint32(len(names))}
	if args.NeedResults != 0 {
		for _, name := range names {
			ret.Vols = append(ret.Vols, libvirt.StorageVol{Pool: p.Name, Name: name, Key: p.PathOf(name)})
		}
	}
	return ret, nil
}

func storageVolLookupByName(ctx context.Context, s *session, args *libvirt.StorageVolLookupByNameArgs) (*libvirt.StorageVolLookupByNameRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	v, err := p.Volume(ctx, args.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolLookupByNameRet{Vol: volumeReference(v)}, nil
}

func storageVolLookupByKey(ctx context.Context, s *session, args *libvirt.StorageVolLookupByKeyArgs) (*libvirt.StorageVolLookupByKeyRet, error) {
	v, err := s.connection().Images.Lookup(ctx, args.Key, false)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolLookupByKeyRet{Vol: volumeReference(v)}, nil
}

// storageVolLookupByPath shows a folder from now on, unless the client may only read: then it finds what is shown already.
func storageVolLookupByPath(ctx context.Context, s *session, args *libvirt.StorageVolLookupByPathArgs) (*libvirt.StorageVolLookupByPathRet, error) {
	v, err := s.connection().Images.Lookup(ctx, args.Path, !s.readOnly.Load())
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolLookupByPathRet{Vol: volumeReference(v)}, nil
}

func storageVolGetInfo(ctx context.Context, s *session, args *libvirt.StorageVolGetInfoArgs) (*libvirt.StorageVolGetInfoRet, error) {
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolGetInfoRet{Type: int8(v.Type), Capacity: v.Capacity, Allocation: v.Allocation}, nil
}

func storageVolGetInfoFlags(ctx context.Context, s *session, args *libvirt.StorageVolGetInfoFlagsArgs) (*libvirt.StorageVolGetInfoFlagsRet, error) {
	if err := checkFlags(args.Flags, volumeGetPhysical, "virStorageVolGetInfoFlags"); err != nil {
		return nil, err
	}
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StorageVolGetInfoFlagsRet{Type: int8(v.Type), Capacity: v.Capacity, Allocation: v.Allocation}
	if args.Flags&volumeGetPhysical != 0 {
		ret.Allocation = v.Physical
	}
	return ret, nil
}

func storageVolGetXMLDesc(ctx context.Context, s *session, args *libvirt.StorageVolGetXMLDescArgs) (*libvirt.StorageVolGetXMLDescRet, error) {
	if err := checkFlags(args.Flags, 0, "virStorageVolGetXMLDesc"); err != nil {
		return nil, err
	}
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	xml, err := v.XML()
	return &libvirt.StorageVolGetXMLDescRet{XML: xml}, err
}

func storageVolGetPath(ctx context.Context, s *session, args *libvirt.StorageVolGetPathArgs) (*libvirt.StorageVolGetPathRet, error) {
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolGetPathRet{Name: v.Path}, nil
}
