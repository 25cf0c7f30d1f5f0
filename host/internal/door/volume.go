package door

import (
	"context"
	"io"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// volumeGetPhysical is the flag of virStorageVolGetInfoFlags that asks for the size of the file in place of what it takes on disk.
	volumeGetPhysical = 1
	// streamSparse is the flag of virStorageVolUpload and Download for streams with holes.
	streamSparse = 1
)

// volume finds the volume that a client means, by its name in a pool and its key.
func (s *session) volume(ctx context.Context, ref libvirt.StorageVol) (pool.Volume, error) {
	p, err := s.connection().Pools.ByName(ref.Pool)
	if err != nil {
		return pool.Volume{}, err
	}
	v, err := p.Volume(ctx, ref.Name)
	if err == nil && ref.Key != "" && v.Key != ref.Key {
		return v, verr.New(verr.NoStorageVol, "no storage vol with matching key '%s'", ref.Key).In(verr.FromStorage)
	}
	return v, err
}

func volumeReference(v pool.Volume) libvirt.StorageVol {
	return libvirt.StorageVol{Pool: v.Pool.View().Name, Name: v.Name, Key: v.Key}
}

// volumes returns a pool's volumes.
func (s *session) volumes(ctx context.Context, ref libvirt.StoragePool) ([]pool.Volume, error) {
	p, err := s.pool(ref)
	if err != nil {
		return nil, err
	}
	all, err := p.Volumes(ctx)
	if err == nil && len(all) > maxVolumes {
		err = verr.New(verr.RPC, "too many storage volumes %d for limit %d", len(all), maxVolumes)
	}
	return all, err
}

func storagePoolNumOfVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolNumOfVolumesArgs) (*libvirt.StoragePoolNumOfVolumesRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	n, err := p.Count(ctx)
	return &libvirt.StoragePoolNumOfVolumesRet{Num: int32(n)}, err
}

func storagePoolListVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolListVolumesArgs) (*libvirt.StoragePoolListVolumesRet, error) {
	if err := room(args.Maxnames, "names"); err != nil {
		return nil, err
	}
	all, err := s.volumes(ctx, args.Pool)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StoragePoolListVolumesRet{}
	for _, v := range firstOf(all, args.Maxnames) {
		ret.Names = append(ret.Names, v.Name)
	}
	return ret, nil
}

func storagePoolListAllVolumes(ctx context.Context, s *session, args *libvirt.StoragePoolListAllVolumesArgs) (*libvirt.StoragePoolListAllVolumesRet, error) {
	if err := checkFlags(args.Flags, 0, "virStoragePoolListAllVolumes"); err != nil {
		return nil, err
	}
	all, err := s.volumes(ctx, args.Pool)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StoragePoolListAllVolumesRet{Ret: uint32(len(all))}
	if args.NeedResults != 0 {
		ret.Vols = make([]libvirt.StorageVol, len(all))
		for n, v := range all {
			ret.Vols[n] = libvirt.StorageVol{Pool: args.Pool.Name, Name: v.Name, Key: v.Key}
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
	v, err := s.connection().Pools.VolumeByKey(ctx, args.Key)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolLookupByKeyRet{Vol: volumeReference(v)}, nil
}

func storageVolLookupByPath(ctx context.Context, s *session, args *libvirt.StorageVolLookupByPathArgs) (*libvirt.StorageVolLookupByPathRet, error) {
	v, err := s.connection().Pools.VolumeByPath(ctx, args.Path)
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
	return &libvirt.StorageVolGetInfoRet{Type: volumeType(v), Capacity: v.Capacity, Allocation: v.Allocation}, nil
}

// volumeType is virStorageVolType, which the contract's numbers are one above.
func volumeType(v pool.Volume) int8 { return int8(v.Type) - 1 }

func storageVolGetInfoFlags(ctx context.Context, s *session, args *libvirt.StorageVolGetInfoFlagsArgs) (*libvirt.StorageVolGetInfoFlagsRet, error) {
	if err := checkFlags(args.Flags, volumeGetPhysical, "virStorageVolGetInfoFlags"); err != nil {
		return nil, err
	}
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StorageVolGetInfoFlagsRet{Type: volumeType(v), Capacity: v.Capacity, Allocation: v.Allocation}
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

func storageVolCreateXML(ctx context.Context, s *session, args *libvirt.StorageVolCreateXMLArgs) (*libvirt.StorageVolCreateXMLRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	v, err := p.CreateVolume(ctx, args.XML, uint32(args.Flags), nil)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolCreateXMLRet{Vol: volumeReference(v)}, nil
}

func storageVolCreateXMLFrom(ctx context.Context, s *session, args *libvirt.StorageVolCreateXMLFromArgs) (*libvirt.StorageVolCreateXMLFromRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	from, err := s.volume(ctx, args.Clonevol)
	if err != nil {
		return nil, err
	}
	v, err := p.CreateVolume(ctx, args.XML, uint32(args.Flags), &from)
	if err != nil {
		return nil, err
	}
	return &libvirt.StorageVolCreateXMLFromRet{Vol: volumeReference(v)}, nil
}

// onVolume runs a change of a volume.
func (s *session) onVolume(ctx context.Context, ref libvirt.StorageVol, do func(pool.Volume) error) error {
	v, err := s.volume(ctx, ref)
	if err != nil {
		return err
	}
	return do(v)
}

func storageVolDelete(ctx context.Context, s *session, args *libvirt.StorageVolDeleteArgs) error {
	return s.onVolume(ctx, args.Vol, func(v pool.Volume) error { return v.Delete(ctx, uint32(args.Flags)) })
}

func storageVolResize(ctx context.Context, s *session, args *libvirt.StorageVolResizeArgs) error {
	return s.onVolume(ctx, args.Vol, func(v pool.Volume) error { return v.Resize(ctx, args.Capacity, uint32(args.Flags)) })
}

func storageVolWipe(ctx context.Context, s *session, args *libvirt.StorageVolWipeArgs) error {
	if err := checkFlags(args.Flags, 0, "virStorageVolWipe"); err != nil {
		return err
	}
	return s.onVolume(ctx, args.Vol, func(v pool.Volume) error { return v.Wipe(ctx, 0) })
}

func storageVolWipePattern(ctx context.Context, s *session, args *libvirt.StorageVolWipePatternArgs) error {
	if err := checkFlags(args.Flags, 0, "virStorageVolWipePattern"); err != nil {
		return err
	}
	return s.onVolume(ctx, args.Vol, func(v pool.Volume) error { return v.Wipe(ctx, args.Algorithm) })
}

func storageVolDownload(ctx context.Context, s *session, args *libvirt.StorageVolDownloadArgs) (io.ReadWriteCloser, *void, error) {
	if err := checkFlags(uint32(args.Flags), streamSparse, "virStorageVolDownload"); err != nil {
		return nil, nil, err
	}
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, nil, err
	}
	d, err := v.Download(ctx, args.Offset, args.Length, args.Flags&streamSparse != 0)
	if err != nil {
		return nil, nil, err
	}
	return &download{from: d, sparse: args.Flags&streamSparse != 0}, nil, nil
}

func storageVolUpload(ctx context.Context, s *session, args *libvirt.StorageVolUploadArgs) (io.ReadWriteCloser, *void, error) {
	if err := checkFlags(uint32(args.Flags), streamSparse, "virStorageVolUpload"); err != nil {
		return nil, nil, err
	}
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, nil, err
	}
	u, err := v.Upload(ctx, args.Offset, args.Length)
	if err != nil {
		return nil, nil, err
	}
	return newUpload(u, args.Flags&streamSparse != 0), nil, nil
}
