package images

import (
	"context"
	"encoding/xml"
	"fmt"
	"time"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// The documents, in libvirt's order; https://libvirt.org/formatstorage.html describes them.
type (
	poolXML struct {
		XMLName    xml.Name  `xml:"pool"`
		Type       string    `xml:"type,attr"`
		Name       string    `xml:"name"`
		UUID       string    `xml:"uuid"`
		Capacity   sizeXML   `xml:"capacity"`
		Allocation sizeXML   `xml:"allocation"`
		Available  sizeXML   `xml:"available"`
		Source     struct{}  `xml:"source"`
		Target     targetXML `xml:"target"`
	}
	volumeXML struct {
		XMLName    xml.Name    `xml:"volume"`
		Type       string      `xml:"type,attr"`
		Name       string      `xml:"name"`
		Key        string      `xml:"key"`
		Source     struct{}    `xml:"source"`
		Capacity   sizeXML     `xml:"capacity"`
		Allocation sizeXML     `xml:"allocation"`
		Physical   sizeXML     `xml:"physical"`
		Target     targetXML   `xml:"target"`
		Backing    *backingXML `xml:"backingStore"`
	}
	sizeXML struct {
		Unit  string `xml:"unit,attr"`
		Value uint64 `xml:",chardata"`
	}
	targetXML struct {
		Path        string          `xml:"path"`
		Format      *formatXML      `xml:"format"`
		Permissions *permissionsXML `xml:"permissions"`
		Timestamps  *timestampsXML  `xml:"timestamps"`
		Compat      string          `xml:"compat,omitempty"`
		ClusterSize *sizeXML        `xml:"clusterSize"`
		Features    *featuresXML    `xml:"features"`
	}
	formatXML struct {
		Type string `xml:"type,attr"`
	}
	permissionsXML struct {
		Mode  string `xml:"mode"`
		Owner uint32 `xml:"owner"`
		Group uint32 `xml:"group"`
	}
	timestampsXML struct {
		Accessed string `xml:"atime"`
		Modified string `xml:"mtime"`
		Changed  string `xml:"ctime"`
	}
	featuresXML struct {
		LazyRefcounts *struct{} `xml:"lazy_refcounts"`
		ExtendedL2    *struct{} `xml:"extended_l2"`
	}
	backingXML struct {
		Path   string     `xml:"path"`
		Format *formatXML `xml:"format"`
	}
)

func bytesOf(n uint64) sizeXML { return sizeXML{Unit: "bytes", Value: n} }

func permissions(mode, owner, group uint32) *permissionsXML {
	return &permissionsXML{Mode: fmt.Sprintf("%04o", mode), Owner: owner, Group: group}
}

// XML describes the pool as libvirt describes a folder.
func (p *Pool) XML(ctx context.Context) (string, error) {
	info, err := p.Info(ctx)
	if err != nil {
		return "", err
	}
	doc := poolXML{
		Type: "dir", Name: p.Name, UUID: p.UUID.String(),
		Capacity: bytesOf(info.Capacity), Allocation: bytesOf(info.Allocation), Available: bytesOf(info.Available),
		Target: targetXML{Path: p.Path},
	}
	if info.State == Running {
		doc.Target.Permissions = permissions(info.Mode, info.Owner, info.Group)
	}
	return document(doc)
}

// XML describes the volume as libvirt describes a file in a folder.
func (v *Volume) XML() (string, error) {
	img := &v.Image
	doc := volumeXML{
		Type: "file", Name: v.Name, Key: v.Path,
		Capacity: bytesOf(v.Capacity), Allocation: bytesOf(v.Allocation), Physical: bytesOf(v.Physical),
		Target: targetXML{
			Path: v.Path, Format: &formatXML{img.Format}, Permissions: permissions(v.Mode, v.Owner, v.Group),
			Timestamps: &timestampsXML{stamp(v.Accessed), stamp(v.Modified), stamp(v.Changed)}, Compat: img.Compat,
		},
	}
	if v.Type == Block {
		doc.Type = "block"
	}
	if img.ClusterSize > 0 {
		doc.Target.ClusterSize = &sizeXML{Unit: "B", Value: img.ClusterSize}
	}
	if img.Compat == "1.1" {
		doc.Target.Features = &featuresXML{present(img.LazyRefcounts), present(img.ExtendedL2)}
	}
	if img.Backing != "" {
		doc.Backing = &backingXML{Path: img.Backing}
		if img.BackingFormat != "" {
			doc.Backing.Format = &formatXML{img.BackingFormat}
		}
	}
	return document(doc)
}

// present is an empty element, or none.
func present(is bool) *struct{} {
	if !is {
		return nil
	}
	return &struct{}{}
}

// stamp is a time in seconds, with nanoseconds unless they are 0.
func stamp(t time.Time) string {
	if t.Nanosecond() == 0 {
		return fmt.Sprint(t.Unix())
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

func document(doc any) (string, error) {
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", storageError(verr.Internal, "print description of storage: %w", err)
	}
	return domxml.Reformat(string(text))
}
