// Package poolxml reads, completes and prints libvirt's definitions of storage pools and volumes, for the authors of storage drivers.
//
// A driver reads a definition with Parse, asks for what its types need (NeedHost, NeedDevices, NeedFormat, NeedTarget), and prints it
// with XML. ParseVolume does the same for volumes. Definitions come from clients and are untrusted: Parse checks form, name, UUID,
// permissions and secrets, and the Need methods check what they return, so that no value can be taken for an option of a command.
//
// Functions keep nothing and are safe concurrently; a Pool or Volume belongs to one goroutine. Errors are verr errors: XMLError for
// what is missing or malformed, ConfigUnsupported for what a driver cannot do, by name.
//
// The formats are described at https://libvirt.org/formatstorage.html.
package poolxml

import (
	"encoding/xml"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Pool is a pool's definition. Its elements are printed in libvirt's order.
type Pool struct {
	XMLName  xml.Name  `xml:"pool"`
	Type     string    `xml:"type,attr"`
	Name     string    `xml:"name"`
	UUID     string    `xml:"uuid"`
	Features *Features `xml:"features"`
	Source   Source    `xml:"source"`
	Target   *Target   `xml:"target"`
	Refresh  *Refresh  `xml:"refresh"`
	Mount    *Options  `xml:"http://libvirt.org/schemas/storagepool/fs/1.0 mount_opts"`
	Config   *Settings `xml:"http://libvirt.org/schemas/storagepool/rbd/1.0 config_opts"`
}

// Features is what a pool's volumes are made with.
type Features struct {
	COW *State `xml:"cow"`
}

// State is a switch: "yes" or "no".
type State struct {
	State string `xml:"state,attr"`
}

// Source is where a pool comes from.
type Source struct {
	Hosts     []Host     `xml:"host"`
	Devices   []Device   `xml:"device"`
	Dir       *Path      `xml:"dir"`
	Adapter   *Adapter   `xml:"adapter"`
	Name      string     `xml:"name,omitempty"`
	Initiator *Initiator `xml:"initiator"`
	Format    *Format    `xml:"format"`
	Auth      *Auth      `xml:"auth"`
	Protocol  *Version   `xml:"protocol"`
	Vendor    *Named     `xml:"vendor"`
	Product   *Named     `xml:"product"`
}

// Host is a server; an empty port is the protocol's own.
type Host struct {
	Name string `xml:"name,attr"`
	Port string `xml:"port,attr,omitempty"`
}

// Device is a device or what a server calls one.
type Device struct {
	Path string `xml:"path,attr"`
	// Separator is "yes" or "no": whether names of partitions have a "p" before their numbers.
	Separator string `xml:"part_separator,attr,omitempty"`
}

// Path is an element with a path.
type Path struct {
	Path string `xml:"path,attr"`
}

// Adapter is a SCSI host adapter.
type Adapter struct {
	Attrs    []xml.Attr `xml:",any,attr"`
	Children string     `xml:",innerxml"`
}

// Initiator is the name with which an iSCSI initiator logs in.
type Initiator struct {
	IQN Named `xml:"iqn"`
}

// Auth is how a client proves who it is.
type Auth struct {
	Type     string     `xml:"type,attr"`
	Username string     `xml:"username,attr"`
	Secret   *SecretRef `xml:"secret"`
}

// SecretRef names a secret by one of the two.
type SecretRef struct {
	Type  string `xml:"type,attr,omitempty"`
	UUID  string `xml:"uuid,attr,omitempty"`
	Usage string `xml:"usage,attr,omitempty"`
}

// Version is the version of a protocol.
type Version struct {
	Version string `xml:"ver,attr"`
}

// Format is an element with a type.
type Format struct {
	Type string `xml:"type,attr"`
}

// Named is an element with a name.
type Named struct {
	Name string `xml:"name,attr"`
}

// Target is where a pool appears.
type Target struct {
	Path        string       `xml:"path"`
	Permissions *Permissions `xml:"permissions"`
}

// Permissions are those of a folder or file; empty parts are not stated.
type Permissions struct {
	Mode  string `xml:"mode,omitempty"`
	Owner string `xml:"owner,omitempty"`
	Group string `xml:"group,omitempty"`
	Label string `xml:"label,omitempty"`
}

// Refresh is what a refresh looks at.
type Refresh struct {
	Volume RefreshVolume `xml:"volume"`
}

// RefreshVolume says how a volume's allocation is found: "default", or "capacity" to take the capacity for it.
type RefreshVolume struct {
	Allocation string `xml:"allocation,attr"`
}

// Options are further options of a mount.
type Options struct {
	Options []Named `xml:"http://libvirt.org/schemas/storagepool/fs/1.0 option"`
}

// Settings are further settings of a Ceph client.
type Settings struct {
	Settings []Setting `xml:"http://libvirt.org/schemas/storagepool/rbd/1.0 option"`
}

// Setting is one of them.
type Setting struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

// Parse reads a definition whose type is one of types, and completes name and UUID.
func Parse(text string, types ...string) (*Pool, error) {
	if err := domxml.Check(text, "pool"); err != nil {
		return nil, err
	}
	p := &Pool{}
	if err := xml.Unmarshal([]byte(text), p); err != nil {
		return nil, verr.New(verr.XMLError, "definition of storage pool: %w", err)
	}
	if !slices.Contains(types, p.Type) {
		return nil, verr.New(verr.ConfigUnsupported, "pool type '%s' is not one of this driver's", p.Type)
	}
	p.Name, p.Source.Name = strings.TrimSpace(p.Name), strings.TrimSpace(p.Source.Name)
	if p.Name == "" {
		p.Name = p.Source.Name
	}
	if p.Name == "" {
		return nil, verr.New(verr.XMLError, "missing pool source name element")
	}
	if p.UUID = strings.TrimSpace(p.UUID); p.UUID == "" {
		p.UUID = uuid.NewString()
	}
	id, err := domxml.ParseUUID(p.UUID)
	if err != nil {
		return nil, verr.New(verr.XMLError, "malformed uuid element")
	}
	p.UUID = id.String()
	if err := p.Source.Auth.check(); err != nil {
		return nil, err
	}
	if r := p.Refresh; r != nil && r.Volume.Allocation != "default" && r.Volume.Allocation != "capacity" {
		return nil, verr.New(verr.XMLError, "unknown storage pool volume refresh allocation type '%s'", r.Volume.Allocation)
	}
	if p.Target == nil {
		return p, nil
	}
	p.Target.Path = strings.TrimSpace(p.Target.Path)
	return p, p.Target.Permissions.check()
}

// NeedTarget demands an absolute path of the target, and cleans it.
func (p *Pool) NeedTarget() error {
	if p.Target == nil {
		p.Target = &Target{}
	}
	path := p.Target.Path
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return verr.New(verr.XMLError, "missing storage pool target path, which must be absolute: '%s'", path)
	}
	p.Target.Path = filepath.Clean(path)
	return nil
}

// NeedHost demands from one to most hosts.
func (p *Pool) NeedHost(most int) error {
	if len(p.Source.Hosts) == 0 || len(p.Source.Hosts) > most {
		return verr.New(verr.XMLError, "missing storage pool source host name")
	}
	for _, h := range p.Source.Hosts {
		if err := h.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Check refuses what a command could take for something else than a host's name or address and port.
func (h Host) Check() error {
	odd := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`/\'",;@`, r)
	}
	switch {
	case h.Name == "":
		return verr.New(verr.XMLError, "missing storage pool source host name")
	case len(h.Name) > 255 || strings.HasPrefix(h.Name, "-") || strings.ContainsFunc(h.Name, odd):
		return verr.New(verr.XMLError, "'%s' is no name of a host", h.Name)
	case h.Port == "":
		return nil
	}
	if n, err := strconv.ParseUint(h.Port, 10, 16); err != nil || n == 0 {
		return verr.New(verr.XMLError, "invalid port number: '%s'", h.Port)
	}
	return nil
}

// Number returns the host's port, or that of its protocol.
func (h Host) Number(protocol uint16) uint16 {
	if n, err := strconv.ParseUint(h.Port, 10, 16); err == nil {
		return uint16(n)
	}
	return protocol
}

// NeedDevices demands from one to most absolute paths of devices.
func (p *Pool) NeedDevices(most int) error {
	if len(p.Source.Devices) == 0 || len(p.Source.Devices) > most {
		return verr.New(verr.XMLError, "missing storage pool source device path")
	}
	for i := range p.Source.Devices {
		d := &p.Source.Devices[i]
		if !filepath.IsAbs(d.Path) || strings.ContainsRune(d.Path, 0) {
			return verr.New(verr.XMLError, "missing storage pool source device path, which must be absolute: '%s'", d.Path)
		}
	}
	return nil
}

// NeedFormat completes the source's format by the first of those that are known, and refuses others.
func (p *Pool) NeedFormat(known ...string) error {
	if p.Source.Format == nil || p.Source.Format.Type == "" {
		p.Source.Format = &Format{known[0]}
	}
	if !slices.Contains(known, p.Source.Format.Type) {
		return verr.New(verr.ConfigUnsupported, "unknown pool format type '%s' of pool type '%s'", p.Source.Format.Type, p.Type)
	}
	return nil
}

// check refuses an authentication that names nobody or no secret.
func (a *Auth) check() error {
	switch {
	case a == nil:
		return nil
	case a.Type != "chap" && a.Type != "ceph":
		return verr.New(verr.XMLError, "unknown auth type '%s'", a.Type)
	case a.Username == "":
		return verr.New(verr.XMLError, "missing authentication username")
	case a.Secret == nil || (a.Secret.UUID == "") == (a.Secret.Usage == ""):
		return verr.New(verr.XMLError, "authentication of '%s' must name its secret by either uuid or usage", a.Username)
	case a.Secret.UUID == "":
		return nil
	}
	id, err := domxml.ParseUUID(a.Secret.UUID)
	if err != nil {
		return verr.New(verr.XMLError, "malformed uuid '%s' of a secret", a.Secret.UUID)
	}
	a.Secret.UUID = id.String()
	return nil
}

// Ref names the secret of an authentication for the contract, with what it is used for ("ceph", "iscsi"); nil has none.
func (a *Auth) Ref(usage string) []*pb.SecretRef {
	if a == nil || a.Secret == nil {
		return nil
	}
	return []*pb.SecretRef{{Uuid: a.Secret.UUID, Usage: a.Secret.Usage, UsageType: usage}}
}

// check refuses what are no permissions.
func (p *Permissions) check() error {
	if p == nil {
		return nil
	}
	if p.Mode != "" {
		if mode, err := strconv.ParseUint(p.Mode, 8, 32); err != nil || mode > 0o7777 {
			return verr.New(verr.XMLError, "malformed octal mode '%s'", p.Mode)
		}
	}
	for name, text := range map[string]string{"owner": p.Owner, "group": p.Group} {
		if text == "" || text == "-1" {
			continue
		}
		if _, err := strconv.ParseUint(text, 10, 32); err != nil {
			return verr.New(verr.XMLError, "malformed %s element '%s'", name, text)
		}
	}
	return nil
}

// Values returns mode, owner and group, with what stands where nothing is stated; -1 leaves an owner or group as it is.
func (p *Permissions) Values(mode uint32) (uint32, int, int) {
	owner, group := -1, -1
	if p == nil {
		return mode, owner, group
	}
	if n, err := strconv.ParseUint(p.Mode, 8, 32); err == nil {
		mode = uint32(n)
	}
	if n, err := strconv.ParseUint(p.Owner, 10, 32); err == nil {
		owner = int(n)
	}
	if n, err := strconv.ParseUint(p.Group, 10, 32); err == nil {
		group = int(n)
	}
	return mode, owner, group
}

// Validated is the answer to storage.Driver's Validate: the definition as it is now, with what no other pool may have too. usage is what the
// secret of an authentication is used for ("ceph", "iscsi").
func (p *Pool) Validated(exclusive []string, usage string) (*pb.ValidateResponse, error) {
	text, err := p.XML()
	if err != nil {
		return nil, err
	}
	rsp := &pb.ValidateResponse{Xml: text, Uuid: p.UUID, Name: p.Name, Type: p.Type, Exclusive: exclusive, Secrets: p.Source.Auth.Ref(usage)}
	if p.Target != nil {
		rsp.TargetPath = p.Target.Path
	}
	return rsp, nil
}

// ParseSource reads a client's description of where to look for sources; an empty one is a Source without anything.
func ParseSource(text string) (*Source, error) {
	s := &Source{}
	if text == "" {
		return s, nil
	}
	if err := domxml.Check(text, "source"); err != nil {
		return nil, err
	}
	if err := xml.Unmarshal([]byte(text), s); err != nil {
		return nil, verr.New(verr.XMLError, "description of a storage source: %w", err)
	}
	return s, nil
}

// Sources prints libvirt's document of sources.
func Sources(all []Source) (string, error) {
	doc := struct {
		XMLName xml.Name `xml:"sources"`
		Sources []Source `xml:"source"`
	}{Sources: all}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", verr.New(verr.Internal, "print storage sources: %w", err)
	}
	return domxml.Reformat(string(text))
}
