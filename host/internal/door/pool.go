package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/pool"
)

// maxVolumes is how many volumes one list has at most; libvirt's clients refuse more.
const maxVolumes = maxObjects

// poolTypeFlags are the bits of virConnectListAllStoragePoolsFlags that stand for types.
var poolTypeFlags = map[string]libvirt.ConnectListAllStoragePoolsFlags{
	"dir": libvirt.ConnectListStoragePoolsDir, "fs": libvirt.ConnectListStoragePoolsFs, "netfs": libvirt.ConnectListStoragePoolsNetfs,
	"logical": libvirt.ConnectListStoragePoolsLogical, "disk": libvirt.ConnectListStoragePoolsDisk,
	"iscsi": libvirt.ConnectListStoragePoolsIscsi, "scsi": libvirt.ConnectListStoragePoolsScsi,
	"mpath": libvirt.ConnectListStoragePoolsMpath, "rbd": libvirt.ConnectListStoragePoolsRbd,
	"sheepdog": libvirt.ConnectListStoragePoolsSheepdog, "gluster": libvirt.ConnectListStoragePoolsGluster,
	"zfs": libvirt.ConnectListStoragePoolsZfs, "vstorage": libvirt.ConnectListStoragePoolsVstorage,
	"iscsi-direct": libvirt.ConnectListStoragePoolsIscsiDirect,
}

const (
	// poolTypes are the bits of all types of pools; those below are the other ones.
	poolTypes     = poolListKnown &^ (libvirt.ConnectListStoragePoolsDir - 1)
	poolListKnown = libvirt.ConnectListStoragePoolsIscsiDirect<<1 - 1
	poolActive    = uint32(libvirt.ConnectListStoragePoolsActive)
	poolInactive  = uint32(libvirt.ConnectListStoragePoolsInactive)
)

// poolLists are the lists of storage pools.
var poolLists = family[pool.View, libvirt.StoragePool]{
	plural: "storage pools", function: "virConnectListAllStoragePools", known: uint32(poolListKnown),
	all: func(s *session) []pool.View {
		return each(s.connection().Pools.All(), func(p **pool.Pool) pool.View { return (*p).View() })
	},
	passes: func(v *pool.View, flags uint32) bool {
		f := libvirt.ConnectListAllStoragePoolsFlags(flags)
		return picks(flags, v.Active(), poolActive, poolInactive) &&
			picks(f, v.Persistent, libvirt.ConnectListStoragePoolsPersistent, libvirt.ConnectListStoragePoolsTransient) &&
			picks(f, v.Autostart, libvirt.ConnectListStoragePoolsAutostart, libvirt.ConnectListStoragePoolsNoAutostart) &&
			(f&poolTypes == 0 || f&poolTypeFlags[v.Type] != 0)
	},
	name:      func(v *pool.View) string { return v.Name },
	reference: func(v *pool.View) libvirt.StoragePool { return poolReference(*v) },
}

func poolReference(v pool.View) libvirt.StoragePool {
	return libvirt.StoragePool{Name: v.Name, UUID: libvirt.UUID(v.UUID)}
}

// pool finds the pool that a client means, which is by UUID.
func (s *session) pool(ref libvirt.StoragePool) (*pool.Pool, error) {
	return s.connection().Pools.ByUUID(uuid.UUID(ref.UUID))
}

func storagePoolLookupByName(s *session, args *libvirt.StoragePoolLookupByNameArgs) (*libvirt.StoragePoolLookupByNameRet, error) {
	p, err := s.connection().Pools.ByName(args.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByNameRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByUUID(s *session, args *libvirt.StoragePoolLookupByUUIDArgs) (*libvirt.StoragePoolLookupByUUIDRet, error) {
	p, err := s.connection().Pools.ByUUID(uuid.UUID(args.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByUUIDRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByTargetPath(s *session, args *libvirt.StoragePoolLookupByTargetPathArgs) (*libvirt.StoragePoolLookupByTargetPathRet, error) {
	p, err := s.connection().Pools.ByTarget(args.Path)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByTargetPathRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByVolume(_ context.Context, s *session, args *libvirt.StoragePoolLookupByVolumeArgs) (*libvirt.StoragePoolLookupByVolumeRet, error) {
	p, err := s.connection().Pools.ByName(args.Vol.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByVolumeRet{Pool: poolReference(p.View())}, nil
}

func storagePoolGetInfo(ctx context.Context, s *session, args *libvirt.StoragePoolGetInfoArgs) (*libvirt.StoragePoolGetInfoRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StoragePoolGetInfoRet{State: uint8(p.View().Condition)}
	ret.Capacity, ret.Allocation, ret.Available, err = p.Size(ctx)
	return ret, err
}

func storagePoolGetXMLDesc(ctx context.Context, s *session, args *libvirt.StoragePoolGetXMLDescArgs) (*libvirt.StoragePoolGetXMLDescRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	xml, err := p.XML(ctx, uint32(args.Flags))
	return &libvirt.StoragePoolGetXMLDescRet{XML: xml}, err
}

func storagePoolDefineXML(ctx context.Context, s *session, args *libvirt.StoragePoolDefineXMLArgs) (*libvirt.StoragePoolDefineXMLRet, error) {
	const validate = 1
	if err := checkFlags(args.Flags, validate, "virStoragePoolDefineXML"); err != nil {
		return nil, err
	}
	p, err := s.connection().Pools.Define(ctx, args.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolDefineXMLRet{Pool: poolReference(p.View())}, nil
}

func storagePoolCreateXML(ctx context.Context, s *session, args *libvirt.StoragePoolCreateXMLArgs) (*libvirt.StoragePoolCreateXMLRet, error) {
	p, err := s.connection().Pools.Create(ctx, args.XML, uint32(args.Flags)&^8) // 8 asks for a check against the schema
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolCreateXMLRet{Pool: poolReference(p.View())}, nil
}

// onPool runs a change of a pool.
func (s *session) onPool(ref libvirt.StoragePool, do func(*pool.Pool) error) error {
	p, err := s.pool(ref)
	if err != nil {
		return err
	}
	return do(p)
}

func storagePoolCreate(ctx context.Context, s *session, args *libvirt.StoragePoolCreateArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Start(ctx, uint32(args.Flags)) })
}

func storagePoolBuild(ctx context.Context, s *session, args *libvirt.StoragePoolBuildArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Build(ctx, uint32(args.Flags)) })
}

func storagePoolDestroy(ctx context.Context, s *session, args *libvirt.StoragePoolDestroyArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Stop(ctx) })
}

func storagePoolDelete(ctx context.Context, s *session, args *libvirt.StoragePoolDeleteArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Delete(ctx, uint32(args.Flags)) })
}

func storagePoolUndefine(ctx context.Context, s *session, args *libvirt.StoragePoolUndefineArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Undefine(ctx) })
}

func storagePoolRefresh(ctx context.Context, s *session, args *libvirt.StoragePoolRefreshArgs) error {
	if err := checkFlags(args.Flags, 0, "virStoragePoolRefresh"); err != nil {
		return err
	}
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Refresh(ctx) })
}

func storagePoolSetAutostart(ctx context.Context, s *session, args *libvirt.StoragePoolSetAutostartArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.SetAutostart(ctx, args.Autostart != 0) })
}

func storagePoolGetAutostart(s *session, args *libvirt.StoragePoolGetAutostartArgs) (*libvirt.StoragePoolGetAutostartRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolGetAutostartRet{Autostart: boolean(p.View().Autostart)}, nil
}

func storagePoolIsActive(s *session, args *libvirt.StoragePoolIsActiveArgs) (*libvirt.StoragePoolIsActiveRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	v := p.View()
	return &libvirt.StoragePoolIsActiveRet{Active: boolean(v.Active())}, nil
}

func storagePoolIsPersistent(s *session, args *libvirt.StoragePoolIsPersistentArgs) (*libvirt.StoragePoolIsPersistentRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolIsPersistentRet{Persistent: boolean(p.View().Persistent)}, nil
}

func connectFindStoragePoolSources(ctx context.Context, s *session, args *libvirt.ConnectFindStoragePoolSourcesArgs) (*libvirt.ConnectFindStoragePoolSourcesRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectFindStoragePoolSources"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Pools.FindSources(ctx, args.Type, optional(args.SrcSpec))
	return &libvirt.ConnectFindStoragePoolSourcesRet{XML: xml}, err
}

func connectGetStoragePoolCapabilities(ctx context.Context, s *session, args *libvirt.ConnectGetStoragePoolCapabilitiesArgs) (*libvirt.ConnectGetStoragePoolCapabilitiesRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectGetStoragePoolCapabilities"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Pools.Capabilities(ctx)
	return &libvirt.ConnectGetStoragePoolCapabilitiesRet{Capabilities: xml}, err
}
