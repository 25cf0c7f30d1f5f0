package domain

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/saveimage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxPartName bounds what of a file's name is part of the name that it has while it is written, in bytes.
const maxPartName = 200

// managedPath is where the domain's managed save image is.
func (d *Domain) managedPath() string {
	return filepath.Join(d.inv.cfg.SaveDir, d.uuid.String()+".save")
}

// newSaving makes the intent to save to a file.
func newSaving(path string, managed, ran bool) *catalog.Saving {
	s := &catalog.Saving{Path: path, Managed: managed, Ran: ran}
	rand.Read(s.ID[:]) // never fails
	dir, name := filepath.Split(path)
	s.Part = filepath.Join(dir, "."+name[:min(len(name), maxPartName)]+"."+hex.EncodeToString(s.ID[:4])+".part")
	return s
}

// saveTarget is the file that a path means, behind any links. One that is there is replaced when the save is complete.
func saveTarget(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", verr.New(verr.InvalidArg, "path '%s' of a file to save to is not absolute", path)
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			info, err = os.Lstat(path)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && info == nil:
		return filepath.Clean(path), nil
	case err != nil:
		return "", systemError(err, "create", path)
	case !info.Mode().IsRegular():
		return "", verr.New(verr.OperationUnsupported, "domain cannot be saved to '%s', which is no regular file", path)
	}
	return filepath.Clean(path), nil
}

// isSaved reports whether a save has come to its end: the file has its name. An error says that it is not known.
func isSaved(s *catalog.Saving) (bool, error) {
	id, err := saveimage.Identify(s.Path)
	for _, no := range []error{
		fs.ErrNotExist, saveimage.ErrNotImage, saveimage.ErrIncomplete, saveimage.ErrCorrupt, saveimage.ErrVersion,
	} {
		if errors.Is(err, no) {
			return false, nil // a file that was there before
		}
	}
	return err == nil && id == s.ID, err
}

// openImage opens a file that a guest of the connection's driver was saved to.
func (i *Inventory) openImage(path string, open func(string) (*saveimage.File, error)) (*saveimage.File, error) {
	f, err := open(path)
	if err != nil {
		return nil, imageError(path, err)
	}
	if f.Header.Driver != i.cfg.Driver {
		f.Close()
		return nil, verr.New(verr.ConfigUnsupported, "'%s' was saved by driver %s, and cannot be restored by driver %s", path, f.Header.Driver, i.cfg.Driver)
	}
	return f, nil
}

// imageErrors are libvirt's codes for what can be wrong with a file.
var imageErrors = []struct {
	err  error
	code verr.Code
}{
	{saveimage.ErrNotImage, verr.OperationFailed},
	{saveimage.ErrIncomplete, verr.OperationFailed},
	{saveimage.ErrCorrupt, verr.OperationFailed},
	{saveimage.ErrTooLarge, verr.OperationFailed},
	{saveimage.ErrVersion, verr.ConfigUnsupported},
	{saveimage.ErrForeign, verr.OperationUnsupported},
	{saveimage.ErrBusy, verr.ResourceBusy},
}

func imageError(path string, err error) error {
	for _, e := range imageErrors {
		if errors.Is(err, e.err) {
			return verr.New(e.code, "%w", err)
		}
	}
	return systemError(err, "open", path)
}

// systemError is an error of the system about a file.
func systemError(err error, doing, path string) error {
	e := verr.New(verr.SystemError, "Failed to %s file '%s': %w", doing, path, cause(err))
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.Errno = int(errno)
	}
	return e
}

// cause is what the system says of a path, without the path.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
