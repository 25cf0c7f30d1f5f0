package connection

import (
	"context"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/domain"
)

// kept are the domains of a connection that the core keeps.
type kept struct{ *domain.Inventory }

var (
	_ interface {
		Domains
		Creator
		Images
	} = kept{}
	_ interface {
		Domain
		Keyboard
		Console
		Editor
		Devices
		Saver
	} = (*domain.Domain)(nil)
)

// Kept makes the domains that the core keeps those of a connection.
func Kept(i *domain.Inventory) Domains { return kept{i} }

// found keeps a nil from becoming an interface that is none.
func found(d *domain.Domain, err error) (Domain, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (k kept) ByName(name string) (Domain, error)  { return found(k.Inventory.ByName(name)) }
func (k kept) ByUUID(id uuid.UUID) (Domain, error) { return found(k.Inventory.ByUUID(id)) }
func (k kept) ByID(id int32) (Domain, error)       { return found(k.Inventory.ByID(id)) }

func (k kept) Define(ctx context.Context, xml string, flags uint32) (Domain, error) {
	return found(k.Inventory.Define(ctx, xml, flags))
}

func (k kept) Create(ctx context.Context, xml string, flags uint32) (Domain, error) {
	return found(k.Inventory.Create(ctx, xml, flags))
}

func (k kept) Select(filter domain.ListFlags) []Domain {
	domains := k.Inventory.Select(filter)
	all := make([]Domain, len(domains))
	for n, d := range domains {
		all[n] = d
	}
	return all
}

func (k kept) Stats(ctx context.Context, domains []Domain, groups uint32) ([]domain.StatsRecord, error) {
	own := make([]*domain.Domain, 0, len(domains))
	for _, d := range domains {
		if d, ok := d.(*domain.Domain); ok {
			own = append(own, d)
		}
	}
	return k.Inventory.Stats(ctx, own, groups)
}
