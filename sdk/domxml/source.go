package domxml

import (
	"reflect"

	"libvirt.org/go/libvirtxml"
)

// SecretRef is how a definition names a secret: by UUID or by usage.
type SecretRef struct {
	UUID, Usage string
	// Type is what the secret is for, in libvirt's words: "ceph", "iscsi", "volume".
	Type string
}

// volumeSecret is the usage type of a secret that an image is encrypted with.
const volumeSecret = "volume"

// DiskAuth returns who reads a disk's image over the network, or nil. It stands below <disk> or below <source>.
func DiskAuth(k *libvirtxml.DomainDisk) *libvirtxml.DomainDiskAuth {
	if k.Auth == nil && k.Source != nil && k.Source.Network != nil {
		return k.Source.Network.Auth
	}
	return k.Auth
}

// DiskEncryption returns how a disk's image is encrypted, or nil. It stands below <disk> or below <source>.
func DiskEncryption(k *libvirtxml.DomainDisk) *libvirtxml.DomainDiskEncryption {
	if k.Encryption == nil && k.Source != nil {
		return k.Source.Encryption
	}
	return k.Encryption
}

// AuthSecret returns the secret of an <auth>, and whether it has one.
func AuthSecret(a *libvirtxml.DomainDiskAuth) (SecretRef, bool) {
	if a == nil || a.Secret == nil {
		return SecretRef{}, false
	}
	return SecretRef{UUID: a.Secret.UUID, Usage: a.Secret.Usage, Type: a.Secret.Type}, true
}

// EncryptionSecret returns the secret of an <encryption>, and whether it has one.
func EncryptionSecret(e *libvirtxml.DomainDiskEncryption) (SecretRef, bool) {
	if e == nil || len(e.Secrets) == 0 {
		return SecretRef{}, false
	}
	return SecretRef{UUID: e.Secrets[0].UUID, Usage: e.Secrets[0].Usage, Type: volumeSecret}, true
}

// DiskSecrets lists the secrets that a disk names for its image and those below it, each once.
func DiskSecrets(k *libvirtxml.DomainDisk) []SecretRef {
	var list []SecretRef
	seen := map[SecretRef]bool{}
	add := func(ref SecretRef, ok bool) {
		if ok && !seen[ref] {
			seen[ref] = true
			list = append(list, ref)
		}
	}
	add(AuthSecret(DiskAuth(k)))
	add(EncryptionSecret(DiskEncryption(k)))
	for below := k.BackingStore; below != nil; below = below.BackingStore {
		if below.Source == nil {
			continue
		}
		if n := below.Source.Network; n != nil {
			add(AuthSecret(n.Auth))
		}
		add(EncryptionSecret(below.Source.Encryption))
	}
	return list
}

// HasSource reports whether a disk has an image, wherever it is.
func HasSource(s *libvirtxml.DomainDiskSource) bool {
	switch {
	case s == nil:
		return false
	case s.Volume != nil:
		return s.Volume.Pool != "" || s.Volume.Volume != ""
	case s.File != nil:
		return s.File.File != "" || s.File.FDGroup != ""
	case s.Block != nil:
		return s.Block.Dev != ""
	}
	return s.Network != nil || s.Dir != nil || s.NVME != nil || s.VHostUser != nil || s.VHostVDPA != nil
}

// SameSource reports whether two sources name the same image, by what they say of it: a volume by its names, whatever it stands for.
func SameSource(a, b *libvirtxml.DomainDiskSource) bool {
	if !HasSource(a) || !HasSource(b) {
		return HasSource(a) == HasSource(b)
	}
	switch {
	case a.Volume != nil || b.Volume != nil:
		return a.Volume != nil && b.Volume != nil && a.Volume.Pool == b.Volume.Pool && a.Volume.Volume == b.Volume.Volume
	case a.Network != nil || b.Network != nil:
		return reflect.DeepEqual(a.Network, b.Network)
	}
	return SourcePath(a) == SourcePath(b)
}
