package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
)

// migrateKnown are the bits of virDomainMigrateFlags in libvirt 9.0.0.
const migrateKnown uint64 = 1<<21 - 1

// Migration of version 1 is three calls of the client: the target says where to, the source sends, and the target finds the guest. The
// cookie that a client carries from the first to the others is not needed.

func domainMigratePrepare(ctx context.Context, s *session, args *libvirt.DomainMigratePrepareArgs) (*libvirt.DomainMigratePrepareRet, error) {
	if err := checkFlags(args.Flags, migrateKnown, "virDomainMigratePrepare"); err != nil {
		return nil, err
	}
	target, err := domainsThat[connection.MigrationTarget](s)
	if err != nil {
		return nil, err
	}
	to, err := target.PrepareMigration(ctx, optional(args.UriIn), args.Flags, optional(args.Dname))
	return &libvirt.DomainMigratePrepareRet{UriOut: filled(to)}, err
}

func domainMigratePerform(ctx context.Context, s *session, args *libvirt.DomainMigratePerformArgs) error {
	if err := checkFlags(args.Flags, migrateKnown, "virDomainMigratePerform"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.MigrationSource) error {
		return d.PerformMigration(ctx, args.Uri, args.Flags, optional(args.Dname))
	})
}

func domainMigrateFinish(ctx context.Context, s *session, args *libvirt.DomainMigrateFinishArgs) (*libvirt.DomainMigrateFinishRet, error) {
	if err := checkFlags(args.Flags, migrateKnown, "virDomainMigrateFinish"); err != nil {
		return nil, err
	}
	target, err := domainsThat[connection.MigrationTarget](s)
	if err != nil {
		return nil, err
	}
	d, err := target.FinishMigration(ctx, args.Dname, args.Uri, args.Flags)
	return reply(d, err, func(dom libvirt.Domain) *libvirt.DomainMigrateFinishRet {
		return &libvirt.DomainMigrateFinishRet{Ddom: dom}
	})
}
