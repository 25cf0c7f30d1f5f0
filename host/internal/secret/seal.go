package secret

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/crypto/chacha20poly1305"
)

// credentialName is the name under which systemd hands the key over (LoadCredentialEncrypted=, systemd.exec(5)).
const credentialName = "lodge-secret-key"

// KeySource says where the host's key is.
type KeySource struct {
	// Credentials is systemd's folder with the service's credentials ($CREDENTIALS_DIRECTORY), or empty.
	Credentials string
	// File has the key where no credential does; it is made, readable by its owner alone.
	File string
}

// ErrKey says that a value was sealed with another key, or that it was damaged.
var ErrKey = errors.New("sealed with another key than this host's, or damaged")

// seal encrypts values.
type seal struct{ aead cipher.AEAD }

// open reads the key, or makes one.
func (k KeySource) open() (*seal, error) {
	key, err := k.read()
	if err != nil {
		return nil, fmt.Errorf("read key of secrets: %w", err)
	}
	if len(key) != chacha20poly1305.KeySize {
		return nil, fmt.Errorf("read key of secrets: it has %d bytes, %d are needed", len(key), chacha20poly1305.KeySize)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("read key of secrets: %w", err)
	}
	return &seal{aead}, nil
}

func (k KeySource) read() ([]byte, error) {
	if k.Credentials != "" {
		key, err := os.ReadFile(filepath.Join(k.Credentials, credentialName))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
	}
	key, err := os.ReadFile(k.File)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	return k.make()
}

// make writes a new key, whole or not at all.
func (k KeySource) make() ([]byte, error) {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key) // never fails
	next := k.File + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, k.File)
	}
	return key, err
}

// seal encrypts a value for one secret.
func (s *seal) seal(id uuid.UUID, value []byte) []byte {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(value)+s.aead.Overhead())
	rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, value, id[:])
}

// unseal decrypts what seal has made for the secret, or fails with ErrKey.
func (s *seal) unseal(id uuid.UUID, sealed []byte) ([]byte, error) {
	if len(sealed) < s.aead.NonceSize() {
		return nil, ErrKey
	}
	value, err := s.aead.Open([]byte{}, sealed[:s.aead.NonceSize()], sealed[s.aead.NonceSize():], id[:])
	if err != nil {
		return nil, ErrKey
	}
	return value, nil
}
