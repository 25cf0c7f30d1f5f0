// Package lockspace takes, proves and drops the locks themselves: byte 0 of a file, as an open-file-description lock
// (F_OFD_SETLK), named as libvirt's lock daemon names its files.
//
// A lock belongs to a description, not to a process: whoever has a duplicate of the descriptor keeps it alive, so the lock of a
// guest that inherited one lives exactly as long as the guest, whatever becomes of the daemon that took it. The kernel is the
// only judge of conflicts; it also sees the POSIX locks that libvirt's own virtlockd takes on the same byte.
//
// A process that replaces virtlockd in place has such POSIX locks, which are its own and end when it closes any descriptor of the file.
// They are only ever inherited (Inherit), never taken. While one lives, this package keeps all descriptors of its file open, and
// everybody else in the process closes descriptors that may be of lock files with CloseFile.
//
// Nothing here waits for a lock: a conflict is answered at once with a BusyError. Nothing here knows owners; package leases
// does. A Lock must not be used by two goroutines at the same time, but for what only tells about it; everything else is safe
// concurrently. A failed call leaves neither a lock nor a descriptor behind; a lock file that it created may stay, unlocked and
// empty.
package lockspace

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// MaxName bounds a lockspace's path and a resource's name, in bytes (PATH_MAX of Linux).
const MaxName = 4096

// ErrName says that a lockspace or a resource has a name that cannot be used.
var ErrName = errors.New("unusable name")

// Mode is how a lock is held.
type Mode bool

// Modes of a lock.
const (
	// Exclusive conflicts with every other lock.
	Exclusive Mode = false
	// Shared conflicts with exclusive ones only.
	Shared Mode = true
)

// String returns "exclusive" or "shared".
func (m Mode) String() string {
	if m == Shared {
		return "shared"
	}
	return "exclusive"
}

// Resource names what is locked.
type Resource struct {
	// Lockspace is the folder of the lock files, or empty: then Name is the path of the file itself.
	Lockspace string
	// Name is the file's name in the lockspace, or its absolute path.
	Name string
	// Mode is how it is to be held.
	Mode Mode
	// Temporary creates the file if it is missing, and removes it with its last lock. A file of the empty lockspace is
	// created but never removed, because it may be somebody's disk.
	Temporary bool
	// Disk is the image that the lock stands for, for people to read; it may be empty.
	Disk string
}

// ForDisk names the lock of a disk image as libvirt does: in a folder, the file called like the SHA-256 of the path in lower-case
// hexadecimal digits; without a folder, the image itself.
func ForDisk(lockspace, path string, mode Mode) Resource {
	if lockspace == "" {
		return Resource{Name: path, Mode: mode, Disk: path}
	}
	sum := sha256.Sum256([]byte(path))
	return Resource{Lockspace: lockspace, Name: hex.EncodeToString(sum[:]), Mode: mode, Temporary: true, Disk: path}
}

// Path returns the file that carries the lock.
func (r Resource) Path() string {
	switch {
	case r.Lockspace == "" && isClean(r.Name):
		return r.Name
	case r.Lockspace == "":
		return filepath.Clean(r.Name)
	case isClean(r.Lockspace) && isSimple(r.Name):
		return r.Lockspace + "/" + r.Name
	}
	return filepath.Join(r.Lockspace, r.Name)
}

// isClean reports whether an absolute path is as short as it can be. Some that are get no for an answer.
func isClean(path string) bool {
	if path == "" || path[0] != '/' || path[len(path)-1] == '/' {
		return false
	}
	return !strings.Contains(path, "//") && !strings.Contains(path, "/.")
}

// isSimple reports whether a name is that of a file in a folder. Some that are get no for an answer.
func isSimple(name string) bool {
	return name != "" && name[0] != '.' && strings.IndexByte(name, '/') < 0
}

// String returns the disk if it is known, else the path.
func (r Resource) String() string {
	if r.Disk != "" {
		return r.Disk
	}
	return r.Path()
}

// Check returns an error that wraps ErrName if the names are too long, relative, or lead out of their lockspace.
func (r Resource) Check() error {
	switch {
	case len(r.Lockspace) > MaxName || len(r.Name) > MaxName || len(r.Disk) > MaxName:
		return fmt.Errorf("check resource: name of over %d bytes: %w", MaxName, ErrName)
	case strings.IndexByte(r.Lockspace, 0) >= 0 || strings.IndexByte(r.Name, 0) >= 0:
		return fmt.Errorf("check resource %q: null byte: %w", r.Name, ErrName)
	case !utf8.ValidString(r.Lockspace) || !utf8.ValidString(r.Name) || !utf8.ValidString(r.Disk):
		return fmt.Errorf("check resource %q: not UTF-8: %w", r.Name, ErrName)
	case r.Lockspace == "" && !filepath.IsAbs(r.Name):
		return fmt.Errorf("check resource %q: path is not absolute: %w", r.Name, ErrName)
	case r.Lockspace == "":
		return nil
	case !filepath.IsAbs(r.Lockspace):
		return fmt.Errorf("check lockspace %q: path is not absolute: %w", r.Lockspace, ErrName)
	case isSimple(r.Name):
		return nil
	case !filepath.IsLocal(r.Name) || filepath.Clean(r.Name) == ".":
		return fmt.Errorf("check resource %q: leads out of its lockspace: %w", r.Name, ErrName)
	}
	return nil
}
