package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrChecksum says that a binary is not the one that was pinned.
var ErrChecksum = errors.New("checksum does not match")

// OpenBinary opens the plugin's executable and checks what it opened: a regular file, executable, that nobody but root and the own
// user may change, and with the checksum that the operator pinned, or else the one that the manifest states. The descriptor is
// what must be executed.
func (m *Manifest) OpenBinary(pin string) (*os.File, error) {
	f, err := openTrusted(m.Binary)
	if err != nil {
		return nil, fmt.Errorf("plugin %q: %w", m.Name, err)
	}
	if err := m.verify(f, pin); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("plugin %q: verify %q: %w", m.Name, m.Binary, err)
	}
	return f, nil
}

func (m *Manifest) verify(f *os.File, pin string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o111 == 0 {
		return errors.New("not executable")
	}
	want, by := pin, "the operator's settings"
	if want == "" {
		want, by = m.SHA256, m.File
	}
	if want == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if found := hex.EncodeToString(h.Sum(nil)); found != want {
		return fmt.Errorf("%w: %s expects %s, found %s", ErrChecksum, by, want, found)
	}
	return nil
}
