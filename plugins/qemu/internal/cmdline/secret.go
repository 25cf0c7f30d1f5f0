package cmdline

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// A secret that QEMU needs is an object of its own, which block nodes name. In the arguments, which every user of the machine can read, its
// value is encrypted (AES-256-CBC) with a key that QEMU reads from a descriptor and that lives as long as the start. A living QEMU is told
// the value by its monitor, which only the driver can open. See SecretKeyringProperties and SecretProperties in QEMU's qapi/crypto.json.

// masterKey is the object with the key of all secrets in the arguments, keySize its size in bytes.
const (
	masterKey = "masterKey0"
	keySize   = 32
)

// Ends of the names of secrets, which begin with the node that uses one.
const (
	authSecret       = "-auth-secret0"
	cookieSecret     = "-httpcookie-secret0"
	encryptionSecret = "-encryption-secret0"
)

// secret makes the object of a secret that the definition names.
func (b *builder) secret(id string, ref domxml.SecretRef) error {
	if b.plan.Secret != nil {
		if value, ok := b.plan.Secret(ref); ok {
			return b.secretObject(id, value)
		}
	}
	name := ref.UUID
	if name == "" {
		name = ref.Usage
	}
	return verr.New(verr.NoSecret, "value of %s secret '%s' was not given", ref.Type, name)
}

func (b *builder) secretObject(id string, value []byte) error {
	p := props{"qom-type": "secret", "id": id, "format": "base64"}
	if b.hot {
		p["data"] = base64.StdEncoding.EncodeToString(value)
		return b.object(p)
	}
	random := b.plan.Random
	if random == nil {
		random = rand.Reader
	}
	if b.cmd.SecretKey == nil {
		key := make([]byte, keySize)
		if _, err := io.ReadFull(random, key); err != nil {
			return fmt.Errorf("make key for secrets: %w", err)
		}
		b.cmd.SecretKey = key
	}
	iv := make([]byte, aes.BlockSize)
	if _, err := io.ReadFull(random, iv); err != nil {
		return fmt.Errorf("encrypt secret: %w", err)
	}
	data, err := seal(b.cmd.SecretKey, iv, value)
	if err != nil {
		return err
	}
	p["keyid"], p["iv"], p["data"] = masterKey, base64.StdEncoding.EncodeToString(iv), base64.StdEncoding.EncodeToString(data)
	return b.object(p)
}

// seal encrypts a value padded to whole blocks as PKCS #7 has it.
func seal(key, iv, value []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt secret: %w", err)
	}
	pad := aes.BlockSize - len(value)%aes.BlockSize
	data := append(bytes.Clone(value), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)
	return data, nil
}

// unlock puts the key for the secrets before everything that needs one.
func (b *builder) unlock() error {
	if b.cmd.SecretKey == nil {
		return nil
	}
	text, err := json.Marshal(props{
		"qom-type": "secret", "id": masterKey, "format": "raw", "file": fmt.Sprintf("/proc/self/fd/%d", b.plan.KeyFD),
	})
	if err != nil {
		return fmt.Errorf("write -object: %w", err)
	}
	b.cmd.Args = append([]string{"-object", string(text)}, b.cmd.Args...)
	return nil
}

// librbdEncryption is the version of QEMU from which on librbd decrypts images for it.
const librbdEncryption = 6_001_000

// encryption sets how an image is decrypted: in its storage node or in its format node.
func (b *builder) encryption(l layer, storage, format props) error {
	e := l.encryption
	if e == nil {
		return nil
	}
	ref, ok := domxml.EncryptionSecret(e)
	if !ok {
		return verr.New(verr.XMLError, "encryption of an image has no secret")
	}
	id := formatNode(l) + encryptionSecret
	switch v := b.plan.Env.Version; {
	case e.Engine == "librbd" && v > 0 && v < librbdEncryption:
		return unsupported("librbd encryption is not supported by this QEMU binary")
	case e.Engine == "librbd":
		storage["encrypt"] = props{"format": e.Format, "key-secret": id}
	case l.format == "raw":
		format["driver"], format["key-secret"] = "luks", id
	default:
		format["encrypt"] = props{"format": e.Format, "key-secret": id}
	}
	return b.secret(id, ref)
}

// secretDel returns what removes the secrets of an image of a living guest. QEMU refuses to remove what is not there.
func secretDel(k *libvirtxml.DomainDisk, index uint) []Order {
	if !hasSecrets(k) {
		return nil
	}
	l := layer{index: index}
	return []Order{
		order("object-del", "id", storageNode(l)+authSecret), order("object-del", "id", storageNode(l)+cookieSecret),
		order("object-del", "id", formatNode(l)+encryptionSecret),
	}
}

// hasSecrets reports whether QEMU may have secrets for a disk.
func hasSecrets(k *libvirtxml.DomainDisk) bool {
	if len(domxml.DiskSecrets(k)) > 0 || k.Source != nil && k.Source.Cookies != nil {
		return true
	}
	for s := k.BackingStore; s != nil; s = s.BackingStore {
		if s.Source != nil && s.Source.Cookies != nil {
			return true
		}
	}
	return false
}
