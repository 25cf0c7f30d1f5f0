package lockstate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"

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

// Load reads and removes a document, which is to be understood by Parse or ParseHead. Without one the error is fs.ErrNotExist. It is read
// from a regular file of this user's only.
func Load(path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	text, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	return text, nil
}

// magicKey finds the process that a document is for. Within a value there are no quotes that are not escaped.
var magicKey = regexp.MustCompile(`"magic"\s*:\s*"([0-9]*)"`)

// Names reports whether there is a document at path for the process with a number, as far as can be told without understanding it. It
// changes nothing.
func Names(path, magic string) bool {
	f, err := open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := read(f)
	found := magicKey.FindSubmatch(text)
	return err == nil && found != nil && string(found[1]) == magic
}

// open opens a file that is one.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || (st.Uid != uint32(os.Geteuid()) && st.Uid != 0)) {
		err = fmt.Errorf("%q is no file of this user's: %w", path, ErrDamaged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// read returns what is in a file, or a byte more than a document may have.
func read(f *os.File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	text := make([]byte, min(st.Size(), MaxSize)+1)
	n, err := io.ReadFull(f, text)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return text[:n], err
}
