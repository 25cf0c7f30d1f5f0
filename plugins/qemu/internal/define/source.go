package define

import (
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

// checkSources refuses what no image of a disk can be, at the top and below.
func (c *completion) checkSources(k *libvirtxml.DomainDisk) error {
	switch s := k.Source; {
	case s == nil:
	case k.Auth != nil && s.Network != nil && s.Network.Auth != nil:
		return unsupported("an <auth> definition already found for disk source")
	case k.Encryption != nil && s.Encryption != nil:
		return unsupported("an <encryption> definition already found for disk source")
	}
	top := image{k.Source, domxml.DiskAuth(k), domxml.DiskEncryption(k), k.Driver.Type}
	if err := top.check(); err != nil {
		return err
	}
	if err := checkLUN(k); err != nil {
		return err
	}
	for below := k.BackingStore; below != nil; below = below.BackingStore {
		i := image{source: below.Source}
		if below.Format != nil {
			i.format = below.Format.Type
		}
		if s := below.Source; s != nil {
			i.encryption = s.Encryption
			if s.Network != nil {
				i.auth = s.Network.Auth
			}
		}
		if err := i.check(); err != nil {
			return err
		}
	}
	return nil
}

// image is one image of a chain.
type image struct {
	source     *libvirtxml.DomainDiskSource
	auth       *libvirtxml.DomainDiskAuth
	encryption *libvirtxml.DomainDiskEncryption
	format     string
}

func (i image) check() error {
	if i.source != nil {
		if v := i.source.Volume; v != nil {
			if err := checkVolume(v); err != nil {
				return err
			}
		}
		if n := i.source.Network; n != nil {
			if err := checkNetwork(n); err != nil {
				return err
			}
		}
	}
	if err := i.checkAuth(); err != nil {
		return err
	}
	return i.checkEncryption()
}

// volumeModes are how a guest may reach a volume of an iSCSI pool.
var volumeModes = []string{"", "host", "direct"}

func checkVolume(v *libvirtxml.DomainDiskSourceVolume) error {
	switch {
	case (v.Pool == "") != (v.Volume == ""):
		return malformed("'pool' and 'volume' must be specified together for 'pool' type source")
	case !slices.Contains(volumeModes, v.Mode):
		return malformed("Invalid value for attribute 'mode' in element 'source': '%s'.", v.Mode)
	}
	return nil
}

// protocols are those that a definition may name, and whether each names its image.
var protocols = map[string]bool{
	"nbd": false, "rbd": true, "sheepdog": true, "gluster": true, "iscsi": true, "http": true, "https": true, "ftp": true, "ftps": true,
	"tftp": true, "ssh": true, "vxhs": true, "nfs": true,
}

// transports are the ways to a host.
var transports = []string{"", "tcp", "unix", "rdma"}

func checkNetwork(n *libvirtxml.DomainDiskSourceNetwork) error {
	named, known := protocols[n.Protocol]
	switch {
	case n.Protocol == "":
		return malformed("Missing required attribute 'protocol' in element 'source'")
	case !known:
		return malformed("Invalid value for attribute 'protocol' in element 'source': '%s'.", n.Protocol)
	case named && n.Name == "":
		return malformed("missing name for disk source")
	case (n.Protocol == "rbd" || n.Protocol == "gluster") && !strings.Contains(n.Name, "/"):
		return malformed("can't split path '%s' into pool name and image name", n.Name)
	case n.TLS != "" && n.TLS != "yes" && n.TLS != "no":
		return malformed("Invalid value for attribute 'tls' in element 'source': '%s'.", n.TLS)
	}
	for _, h := range n.Hosts {
		switch {
		case !slices.Contains(transports, h.Transport):
			return malformed("unknown protocol transport type '%s'", h.Transport)
		case h.Transport == "unix" && h.Socket == "":
			return malformed("missing socket for unix transport")
		case h.Transport != "unix" && h.Socket != "":
			return malformed("transport '%s' does not support socket attribute", h.Transport)
		case h.Transport != "unix" && h.Name == "":
			return malformed("missing name for host")
		}
	}
	return nil
}

// authSecrets are the types of secret for who reads an image over a protocol that has its own.
var authSecrets = map[string]string{"rbd": "ceph", "iscsi": "iscsi"}

// secretTypes are what a secret can be for.
var secretTypes = []string{"volume", "ceph", "iscsi", "tls", "vtpm"}

func (i image) checkAuth() error {
	a := i.auth
	switch {
	case a == nil:
		return nil
	case a.Username == "":
		return malformed("missing username for auth")
	case a.Secret == nil:
		return malformed("Missing <secret> element in auth")
	}
	if err := checkSecret(a.Secret); err != nil {
		return err
	}
	if i.source == nil || i.source.Network == nil {
		return nil
	}
	if !slices.Contains(secretTypes, a.Secret.Type) {
		return unsupported("unknown secret type '%s'", a.Secret.Type)
	}
	if want, ok := authSecrets[i.source.Network.Protocol]; ok && want != a.Secret.Type {
		return unsupported("invalid secret type '%s'", a.Secret.Type)
	}
	return nil
}

func checkSecret(s *libvirtxml.DomainDiskSecret) error {
	switch {
	case s.UUID == "" && s.Usage == "":
		return malformed("missing secret uuid or usage attribute")
	case s.UUID != "" && s.Usage != "":
		return malformed("either secret uuid or usage expected")
	case s.UUID == "":
		return nil
	}
	id, err := domxml.ParseUUID(s.UUID)
	if err != nil {
		return malformed("invalid secret uuid '%s'", s.UUID)
	}
	s.UUID = id.String()
	return nil
}

// encryptions are the formats that a definition may name.
var encryptions = []string{"default", "qcow", "luks", "luks2"}

func (i image) checkEncryption() error {
	e := i.encryption
	switch {
	case e == nil:
		return nil
	case !slices.Contains(encryptions, e.Format):
		return malformed("unknown volume encryption format type '%s'", e.Format)
	case e.Engine != "" && e.Engine != "qemu" && e.Engine != "librbd":
		return malformed("Invalid value for attribute 'engine' in element 'encryption': '%s'.", e.Engine)
	case len(e.Secrets) != 1:
		return unsupported("encryption needs one secret, and the definition has %d", len(e.Secrets))
	case e.Secrets[0].Type != "passphrase":
		return malformed("unknown volume encryption secret type '%s'", e.Secrets[0].Type)
	}
	if err := checkSecret(&e.Secrets[0]); err != nil {
		return err
	}
	switch {
	case e.Format == "default" || e.Format == "qcow":
		return unsupported("old qcow/qcow2 encryption is not supported")
	case e.Engine == "librbd":
		if i.source == nil || i.source.Volume == nil && (i.source.Network == nil || i.source.Network.Protocol != "rbd") {
			return unsupported("librbd encryption is supported only with RBD backed disks")
		}
	case e.Format == "luks2":
		return unsupported("'luks2' is currently not supported by the qemu encryption engine")
	case i.format != "raw" && i.format != "qcow2":
		return unsupported("encryption is supported only with 'raw' and 'qcow2' image format")
	}
	orDefault(&e.Engine, "qemu")
	return nil
}

// checkLUN refuses to pass commands for SCSI on to what has none.
func checkLUN(k *libvirtxml.DomainDisk) error {
	if k.Device != "lun" || k.Source == nil {
		return nil
	}
	switch n := k.Source.Network; {
	case n != nil && n.Protocol != "iscsi":
		return unsupported("disk device='lun' is not supported for protocol='%s'", n.Protocol)
	case n == nil && k.Source.Block == nil && k.Source.Volume == nil:
		return unsupported("disk device='lun' is only valid for block type disk source")
	case domxml.DiskEncryption(k) != nil:
		return unsupported("disk device='lun' does not support encryption")
	}
	return nil
}
