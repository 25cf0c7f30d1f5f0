package pool

import (
	"context"
	"encoding/xml"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// FindSources has the driver of a pool type look for what pools could be made of; spec is libvirt's <source> document, or empty.
func (i *Inventory) FindSources(ctx context.Context, kind, spec string) (string, error) {
	if i.followed != nil {
		return "", errKept
	}
	conn, err := i.backend(kind)
	if err != nil {
		return "", err
	}
	if spec != "" {
		if err := domxml.Check(spec, "source"); err != nil {
			return "", err
		}
	}
	rsp, err := pb.NewSourceServiceClient(conn).FindSources(ctx, &pb.FindSourcesRequest{Type: kind, SourceXml: spec})
	if verr.From(err) != nil && verr.From(err).Code == verr.NoSupport {
		return "", storageError(verr.NoSupport, "pool type '%s' does not support source discovery", kind)
	}
	return rsp.GetSourcesXml(), err
}

// The document of capabilities, https://libvirt.org/formatstoragecaps.html.
type (
	capabilitiesXML struct {
		XMLName xml.Name      `xml:"storagepoolCapabilities"`
		Pools   []poolTypeXML `xml:"pool"`
	}
	poolTypeXML struct {
		Type      string      `xml:"type,attr"`
		Supported string      `xml:"supported,attr"`
		Pool      *optionsXML `xml:"poolOptions"`
		Volume    *optionsXML `xml:"volOptions"`
	}
	optionsXML struct {
		Default *formatXML `xml:"defaultFormat"`
		Enum    *enumXML   `xml:"enum"`
	}
	enumXML struct {
		Name   string   `xml:"name,attr"`
		Values []string `xml:"value"`
	}
)

// Capabilities tells what can be done with each pool type on this host. A driver that does not answer has types that are not supported.
func (i *Inventory) Capabilities(ctx context.Context) (string, error) {
	if i.followed != nil {
		return "", errKept
	}
	told := map[string]*pb.PoolType{}
	asked := map[grpc.ClientConnInterface]bool{}
	for _, conn := range i.cfg.Backends {
		if asked[conn] {
			continue
		}
		asked[conn] = true
		rsp, err := pb.NewPoolServiceClient(conn).Capabilities(ctx, &pb.CapabilitiesRequest{})
		if err != nil {
			i.cfg.Log.Warn("capabilities of a storage driver are not known", "error", err)
			continue
		}
		for _, t := range rsp.GetTypes() {
			told[t.GetName()] = t
		}
	}
	var doc capabilitiesXML
	for _, kind := range i.Types() {
		t := told[kind]
		entry := poolTypeXML{Type: kind, Supported: "no"}
		if t.GetSupported() {
			entry.Supported = "yes"
		}
		entry.Pool = options("sourceFormatType", t.GetDefaultSourceFormat(), t.GetSourceFormats())
		entry.Volume = options("targetFormatType", t.GetDefaultVolumeFormat(), t.GetVolumeFormats())
		doc.Pools = append(doc.Pools, entry)
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", storageError(verr.Internal, "print capabilities of storage: %w", err)
	}
	return domxml.Reformat(string(text))
}

func options(name, preset string, values []string) *optionsXML {
	if len(values) == 0 {
		return nil
	}
	return &optionsXML{Default: format(preset), Enum: &enumXML{name, values}}
}
