package pool

import (
	"context"
	"encoding/xml"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// xmlInactive is VIR_STORAGE_XML_INACTIVE: the definition of the next start.
const xmlInactive = 1 << 0

// XML describes the pool as libvirt does; flags are virStorageXMLFlags.
func (p *Pool) XML(ctx context.Context, flags uint32) (string, error) {
	if flags&^xmlInactive != 0 {
		return "", unknownFlags(flags &^ xmlInactive)
	}
	s := p.state.Load()
	if s.gone {
		return "", storageError(verr.NoStoragePool, "no storage pool with matching uuid '%s'", s.UUID)
	}
	text := s.record.XML
	if flags&xmlInactive != 0 && s.record.Next != nil {
		text = s.record.Next.XML
	}
	capacity, allocation, available, err := p.Size(ctx)
	if err != nil {
		return "", err
	}
	before, after, ok := strings.Cut(text, "</uuid>\n")
	if !ok {
		return "", storageError(verr.Internal, "definition of storage pool '%s' has no uuid", s.Name)
	}
	var room strings.Builder
	for _, r := range []struct {
		name  string
		value uint64
	}{{"capacity", capacity}, {"allocation", allocation}, {"available", available}} {
		fmt.Fprintf(&room, "  <%s unit='bytes'>%d</%s>\n", r.name, r.value, r.name)
	}
	if flags&xmlInactive == 0 && s.Active() {
		room := p.volumes.room()
		after = withFree(withPermissions(after, room.GetPermissions()), room.GetFree())
	}
	return before + "</uuid>\n" + room.String() + after, nil
}

// withPermissions shows the permissions that the target of a pool in use has, where the definition states none.
func withPermissions(text string, has *pb.Permissions) string {
	const end = "  </target>\n"
	if has == nil || strings.Contains(text, "<permissions>") || !strings.Contains(text, end) {
		return text
	}
	shown := fmt.Sprintf("    <permissions>\n      <mode>%04o</mode>\n      <owner>%d</owner>\n      <group>%d</group>\n    </permissions>\n",
		has.Mode, has.Owner, has.Group)
	return strings.Replace(text, end, shown+end, 1)
}

// withFree shows where room is free on the devices of a pool in use.
func withFree(text string, free []*pb.Extent) string {
	const indent = "    "
	if len(free) == 0 {
		return text
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		var device deviceXML
		tag, ok := strings.CutSuffix(line, "/>\n")
		if !ok || !strings.HasPrefix(tag, indent+"<device ") || xml.Unmarshal([]byte(line), &device) != nil {
			out.WriteString(line)
			continue
		}
		var extents strings.Builder
		for _, e := range free {
			if e.GetDevice() == device.Path {
				fmt.Fprintf(&extents, indent+"  <freeExtent start='%d' end='%d'/>\n", e.GetStart(), e.GetEnd())
			}
		}
		if extents.Len() == 0 {
			out.WriteString(line)
			continue
		}
		out.WriteString(tag + ">\n" + extents.String() + indent + "</device>\n")
	}
	return out.String()
}

// The description of a volume, in libvirt's order; https://libvirt.org/formatstorage.html.
type (
	volumeXML struct {
		XMLName    xml.Name    `xml:"volume"`
		Type       string      `xml:"type,attr"`
		Name       string      `xml:"name"`
		Key        string      `xml:"key"`
		Source     sourceXML   `xml:"source"`
		Capacity   sizeXML     `xml:"capacity"`
		Allocation sizeXML     `xml:"allocation"`
		Physical   *sizeXML    `xml:"physical"`
		Target     targetXML   `xml:"target"`
		Backing    *backingXML `xml:"backingStore"`
	}
	sourceXML struct {
		Devices []deviceXML `xml:"device"`
	}
	deviceXML struct {
		Path    string      `xml:"path,attr"`
		Extents []extentXML `xml:"extent"`
	}
	extentXML struct {
		Start uint64 `xml:"start,attr"`
		End   uint64 `xml:"end,attr"`
	}
	sizeXML struct {
		Unit  string `xml:"unit,attr"`
		Value uint64 `xml:",chardata"`
	}
	targetXML struct {
		Path        string          `xml:"path,omitempty"`
		Format      *formatXML      `xml:"format"`
		Permissions *permissionsXML `xml:"permissions"`
		Timestamps  *timestampsXML  `xml:"timestamps"`
		Encryption  *encryptionXML  `xml:"encryption"`
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
		Label string `xml:"label,omitempty"`
	}
	timestampsXML struct {
		Accessed string `xml:"atime"`
		Modified string `xml:"mtime"`
		Changed  string `xml:"ctime"`
	}
	encryptionXML struct {
		Format string     `xml:"format,attr"`
		Secret *secretXML `xml:"secret"`
	}
	secretXML struct {
		Type  string `xml:"type,attr"`
		UUID  string `xml:"uuid,attr,omitempty"`
		Usage string `xml:"usage,attr,omitempty"`
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

// volumeTypes are libvirt's names of types.
var volumeTypes = map[pb.VolumeType]string{
	pb.VolumeType_VOLUME_TYPE_FILE: "file", pb.VolumeType_VOLUME_TYPE_BLOCK: "block", pb.VolumeType_VOLUME_TYPE_DIR: "dir",
	pb.VolumeType_VOLUME_TYPE_NETWORK: "network", pb.VolumeType_VOLUME_TYPE_NETDIR: "netdir", pb.VolumeType_VOLUME_TYPE_PLOOP: "ploop",
}

func bytesOf(n uint64) sizeXML { return sizeXML{Unit: "bytes", Value: n} }

// XML describes the volume as libvirt does.
func (v Volume) XML() (string, error) {
	doc := volumeXML{
		Type: volumeTypes[v.Type], Name: v.Name, Key: v.Key, Source: extents(v.Extents),
		Capacity: bytesOf(v.Capacity), Allocation: bytesOf(v.Allocation),
		Target: targetXML{
			Path: v.Path, Format: format(v.Format), Permissions: permissions(v.Permissions), Timestamps: timestamps(v.Timestamps),
			Encryption: v.encryption(), Compat: v.Compat, Features: features(v.Compat, v.Features),
		},
	}
	if v.Physical > 0 {
		physical := bytesOf(v.Physical)
		doc.Physical = &physical
	}
	if v.ClusterSize > 0 {
		doc.Target.ClusterSize = &sizeXML{Unit: "B", Value: v.ClusterSize}
	}
	if b := v.Backing; b != nil {
		doc.Backing = &backingXML{Path: b.Path, Format: format(b.Format)}
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", storageError(verr.Internal, "print description of volume: %w", err)
	}
	return domxml.Reformat(string(text))
}

// extents groups pieces by their devices, in order.
func extents(all []*pb.Extent) sourceXML {
	var s sourceXML
	for _, e := range all {
		if n := len(s.Devices); n == 0 || s.Devices[n-1].Path != e.Device {
			s.Devices = append(s.Devices, deviceXML{Path: e.Device})
		}
		last := &s.Devices[len(s.Devices)-1]
		last.Extents = append(last.Extents, extentXML{e.Start, e.End})
	}
	return s
}

func format(name string) *formatXML {
	if name == "" {
		return nil
	}
	return &formatXML{name}
}

func permissions(p *pb.Permissions) *permissionsXML {
	if p == nil {
		return nil
	}
	return &permissionsXML{Mode: fmt.Sprintf("%04o", p.Mode), Owner: p.Owner, Group: p.Group, Label: p.Label}
}

func timestamps(t *pb.Timestamps) *timestampsXML {
	if t == nil {
		return nil
	}
	return &timestampsXML{stamp(t.Accessed), stamp(t.Modified), stamp(t.Changed)}
}

// stamp is a time in seconds, with nanoseconds unless they are 0.
func stamp(ts *timestamppb.Timestamp) string {
	t := ts.AsTime()
	if t.Nanosecond() == 0 {
		return fmt.Sprint(t.Unix())
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()/int(time.Nanosecond))
}

func (v Volume) encryption() *encryptionXML {
	e := v.Encryption
	if e == nil {
		return nil
	}
	out := &encryptionXML{Format: e.Format}
	if s := e.Secret; s != nil {
		out.Secret = &secretXML{Type: "passphrase", UUID: s.Uuid, Usage: s.Usage}
	} else if id := v.Pool.inv.cfg.Secrets.OfVolume(v.Path); id != "" {
		out.Secret = &secretXML{Type: "passphrase", UUID: id}
	}
	return out
}

// features are shown for qcow2 images that can have some.
func features(compat string, names []string) *featuresXML {
	if compat != "1.1" {
		return nil
	}
	f := &featuresXML{}
	for _, n := range names {
		switch n {
		case "lazy_refcounts":
			f.LazyRefcounts = &struct{}{}
		case "extended_l2":
			f.ExtendedL2 = &struct{}{}
		}
	}
	return f
}

// encryptionSecrets lists the secrets that a volume's definition names.
func encryptionSecrets(text string) ([]catalog.SecretRef, error) {
	if err := domxml.Check(text, "volume"); err != nil {
		return nil, err
	}
	var v struct {
		Encryption *poolxml.Encryption `xml:"target>encryption"`
	}
	if err := xml.Unmarshal([]byte(text), &v); err != nil {
		return nil, storageError(verr.XMLError, "definition of volume: %w", err)
	}
	if v.Encryption == nil || v.Encryption.Secret == nil {
		return nil, nil
	}
	s := v.Encryption.Secret
	return []catalog.SecretRef{{UUID: s.UUID, Usage: s.Usage, Type: "volume"}}, nil
}
