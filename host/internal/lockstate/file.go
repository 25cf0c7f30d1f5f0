package lockstate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Save writes a document to a file that only its owner may read, or leaves what was there.
func Save(path string, s *State) error {
	text, err := s.Append(nil)
	if err != nil {
		return err
	}
	next := path + ".new"
	err = os.Remove(next) // of somebody who was killed while he wrote it
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save state: %w", err)
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save state: %w", err), os.Remove(next))
	}
	return nil
}

// Load reads and removes a document. Without one the error is fs.ErrNotExist. It is read from a regular file of this user's only.
func Load(path string) (*State, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || (st.Uid != uint32(os.Geteuid()) && st.Uid != 0) {
		return nil, fmt.Errorf("load state: %q is no file of this user's: %w", path, ErrDamaged)
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	return Parse(text)
}
