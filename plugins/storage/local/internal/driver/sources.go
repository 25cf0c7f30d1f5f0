package driver

import (
	"context"
	"encoding/xml"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// sourcesXML is libvirt's document of sources.
type sourcesXML struct {
	XMLName xml.Name        `xml:"sources"`
	Sources []define.Source `xml:"source"`
}

// FindSources implements storage.Finder: what a server exports, by showmount(8).
func (d *Driver) FindSources(ctx context.Context, req *pb.FindSourcesRequest) (string, error) {
	if req.GetType() != define.NetFS {
		return "", verr.New(verr.NoSupport, "pool type '%s' does not support source discovery", req.GetType()).In(verr.FromStorage)
	}
	var spec define.Source
	if err := xml.Unmarshal([]byte(req.GetSourceXml()), &spec); err != nil {
		return "", verr.New(verr.XMLError, "source to look at: %w", err).In(verr.FromStorage)
	}
	if len(spec.Hosts) != 1 || spec.Hosts[0].Name == "" || strings.HasPrefix(spec.Hosts[0].Name, "-") {
		return "", verr.New(verr.InvalidArg, "hostname must be specified for netfs sources").In(verr.FromStorage)
	}
	host := spec.Hosts[0].Name
	text, err := output(ctx, "showmount", "--no-headers", "--exports", host)
	if err != nil {
		return "", failed("cannot list what '%s' exports: %w", host, err)
	}
	var doc sourcesXML
	for line := range strings.Lines(text) {
		if dir, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(dir, "/") {
			doc.Sources = append(doc.Sources, define.Source{
				Hosts: []define.Host{{Name: host}}, Dir: &define.Path{Path: dir}, Format: &define.Format{Type: "nfs"},
			})
		}
	}
	out, err := xml.Marshal(doc)
	if err != nil {
		return "", verr.New(verr.Internal, "print sources: %w", err).In(verr.FromStorage)
	}
	return domxml.Reformat(string(out))
}
