package guests

import (
	"context"
	"strings"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// place is where the machines of a connection are; the zero value is all of a vCenter server.
type place struct {
	host, compute, pool, datacenter, folder types.ManagedObjectReference
	// datacenterPath is the way from the root of a vCenter server's inventory to the datacenter, empty for an ESX host.
	datacenterPath string
}

// Kinds of managed objects.
const (
	hostType       = "HostSystem"
	datacenterType = "Datacenter"
)

// locate finds the place anew, for a watch that begins.
func (g *Guests) locate(ctx context.Context, client *vim25.Client) (inventory.Place, error) {
	p := &place{}
	var err error
	switch {
	case g.options.Product == endpoint.ESX:
		err = p.only(ctx, client)
	case len(g.options.Path) > 0:
		err = p.follow(ctx, client, g.options.Path)
	}
	if err != nil {
		return inventory.Place{}, err
	}
	if p.host.Value == "" {
		g.place.Store(p)
		return inventory.Place{}, nil
	}
	if err := p.climb(ctx, client); err != nil {
		return inventory.Place{}, err
	}
	if g.options.Product == endpoint.ESX {
		p.datacenterPath = ""
	}
	g.place.Store(p)
	root := p.datacenter
	return inventory.Place{Root: &root, Host: &p.host, Only: g.options.Product == endpoint.VPX}, nil
}

// only finds the host of an ESX endpoint.
func (p *place) only(ctx context.Context, client *vim25.Client) error {
	v, err := view.NewManager(client).CreateContainerView(ctx, client.ServiceContent.RootFolder, []string{hostType}, true)
	if err != nil {
		return err
	}
	defer func() { _ = v.Destroy(ctx) }()
	hosts, err := v.Find(ctx, []string{hostType}, nil)
	if err != nil {
		return err
	}
	if len(hosts) != 1 {
		return failed(verr.Internal, "the endpoint has %d hosts, expecting one", len(hosts))
	}
	p.host = hosts[0]
	return nil
}

// follow finds the host that a path leads to: folders and a datacenter, folders and a compute resource, and the host, which can be left out
// where the compute resource has only one.
func (p *place) follow(ctx context.Context, client *vim25.Client, path []string) error {
	names := make([]string, len(path))
	for i, name := range path {
		names[i] = vmx.EscapeName(name)
	}
	text := strings.Join(path, "/")
	for n := 1; n < len(names); n++ {
		dc, err := lookup(ctx, client, strings.Join(names[:n], "/"))
		if err != nil {
			return err
		}
		if dc == nil || dc.Type != datacenterType {
			continue
		}
		found, err := lookup(ctx, client, strings.Join(names[:n], "/")+"/host/"+strings.Join(names[n:], "/"))
		switch {
		case err != nil:
			return err
		case found == nil:
			return failed(verr.NoConnect, "path '%s': datacenter '%s' has no compute resource or host '%s'", text,
				strings.Join(path[:n], "/"), strings.Join(path[n:], "/"))
		case found.Type == hostType:
			p.host = *found
			return nil
		}
		return p.single(ctx, client, *found, text)
	}
	return failed(verr.NoConnect, "path '%s': no datacenter is at its beginning", text)
}

// single takes the only host of a compute resource.
func (p *place) single(ctx context.Context, client *vim25.Client, ref types.ManagedObjectReference, path string) error {
	if !strings.HasSuffix(ref.Type, "ComputeResource") {
		return failed(verr.NoConnect, "path '%s': it leads to a %s, not to a host", path, ref.Type)
	}
	var compute mo.ComputeResource
	if err := property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"host"}, &compute); err != nil {
		return err
	}
	if len(compute.Host) != 1 {
		return failed(verr.NoConnect, "path '%s' has to specify the host system: the cluster has %d", path, len(compute.Host))
	}
	p.host = compute.Host[0]
	return nil
}

// lookup finds something by its path, nil if there is nothing.
func lookup(ctx context.Context, client *vim25.Client, path string) (*types.ManagedObjectReference, error) {
	res, err := methods.FindByInventoryPath(ctx, client, &types.FindByInventoryPath{
		This: *client.ServiceContent.SearchIndex, InventoryPath: path,
	})
	if err != nil {
		return nil, err
	}
	return res.Returnval, nil
}

// maxDepth bounds the way to the root.
const maxDepth = 64

// climb finds what is above the host: the compute resource with its pool, and the datacenter with its folder of machines.
func (p *place) climb(ctx context.Context, client *vim25.Client) error {
	collector := property.DefaultCollector(client)
	var names []string
	at := p.host
	for range maxDepth {
		var e mo.ManagedEntity
		if err := collector.RetrieveOne(ctx, at, []string{"name", "parent"}, &e); err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(at.Type, "ComputeResource"):
			p.compute = at
		case at.Type == datacenterType:
			p.datacenter = at
		}
		if e.Parent == nil {
			return p.complete(ctx, collector, names)
		}
		if p.datacenter.Value != "" {
			names = append([]string{vmx.UnescapeName(e.Name)}, names...)
		}
		at = *e.Parent
	}
	return failed(verr.Internal, "host %s is too deep in the inventory", p.host.Value)
}

func (p *place) complete(ctx context.Context, collector *property.Collector, names []string) error {
	p.datacenterPath = strings.Join(names, "/")
	if p.compute.Value == "" || p.datacenter.Value == "" {
		return failed(verr.Internal, "host %s is in no compute resource or no datacenter", p.host.Value)
	}
	var compute mo.ComputeResource
	if err := collector.RetrieveOne(ctx, p.compute, []string{"resourcePool"}, &compute); err != nil {
		return err
	}
	var dc mo.Datacenter
	if err := collector.RetrieveOne(ctx, p.datacenter, []string{"vmFolder"}, &dc); err != nil {
		return err
	}
	if compute.ResourcePool == nil {
		return failed(verr.Internal, "compute resource %s has no resource pool", p.compute.Value)
	}
	p.pool, p.folder = *compute.ResourcePool, dc.VmFolder
	return nil
}
