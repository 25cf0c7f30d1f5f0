package driver

import (
	"context"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// FindSources implements storage.Finder: what a server exports, by showmount(8).
func (d *Driver) FindSources(ctx context.Context, req *pb.FindSourcesRequest) (string, error) {
	if req.GetType() != define.NetFS {
		return "", verr.New(verr.NoSupport, "pool type '%s' does not support source discovery", req.GetType()).In(verr.FromStorage)
	}
	spec, err := poolxml.ParseSource(req.GetSourceXml())
	if err != nil {
		return "", err
	}
	if len(spec.Hosts) != 1 {
		return "", verr.New(verr.InvalidArg, "hostname must be specified for netfs sources").In(verr.FromStorage)
	}
	host := spec.Hosts[0]
	if err := host.Check(); err != nil {
		return "", err
	}
	text, err := command.Output(ctx, "showmount", "--no-headers", "--exports", host.Name)
	if err != nil {
		return "", storage.Failed("cannot list what '%s' exports: %w", host.Name, err)
	}
	var all []poolxml.Source
	for line := range strings.Lines(text) {
		if dir, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(dir, "/") {
			all = append(all, poolxml.Source{
				Hosts: []poolxml.Host{{Name: host.Name}}, Dir: &poolxml.Path{Path: dir}, Format: &poolxml.Format{Type: "nfs"},
			})
		}
	}
	return poolxml.Sources(all)
}
