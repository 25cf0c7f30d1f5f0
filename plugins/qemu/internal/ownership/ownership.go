// Package ownership gives files of a host to the user that a guest runs as, and gives them back when no guest uses them any more.
//
// Whose a file was, and how many guests use it, stands in extended attributes of the file itself, under the names and in the form that
// libvirt uses (trusted.libvirt.security.dac, ref_dac, timestamp_dac): it outlives every daemon, and a libvirtd beside us
// understands it. What was written before the last boot is not believed, since no guest has outlived that. A file system without such
// attributes remembers nothing; there a file that is given back becomes root's, as with libvirt.
//
// A Keeper is safe concurrently. It counts correctly as long as only one process at a time gives and takes; a process that is killed
// between the file's change and its own record of it leaves the file to the guests' user until the next boot.
package ownership

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a file can't be given to one user because a guest of another one uses it.
var ErrInUse = errors.New("file is in use by a guest of another user")

// The extended attributes, from libvirt's public behaviour.
const (
	ownerAttr = "trusted.libvirt.security.dac"
	countAttr = "trusted.libvirt.security.ref_dac"
	bootAttr  = "trusted.libvirt.security.timestamp_dac"
)

// maxAttr bounds an attribute's value, in bytes.
const maxAttr = 64

// bootSlack is by how many seconds two computations of one boot's time may differ.
const bootSlack = 2

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// String returns the form "+UID:+GID", as it stands in attributes and in definitions.
func (o Owner) String() string { return fmt.Sprintf("+%d:+%d", o.UID, o.GID) }

// parse reads what String wrote.
func parse(s string) (Owner, bool) {
	user, group, found := strings.Cut(s, ":")
	uid, err1 := strconv.ParseUint(strings.TrimPrefix(user, "+"), 10, 32)
	gid, err2 := strconv.ParseUint(strings.TrimPrefix(group, "+"), 10, 32)
	return Owner{UID: uint32(uid), GID: uint32(gid)}, found && err1 == nil && err2 == nil
}

// Keeper gives files and takes them back. The zero value is ready.
type Keeper struct {
	mu sync.Mutex // makes the change of a file's attributes and owner one
}

// Give makes a file the owner's and counts the guest that it is given for. A file that is shared, one that guests only read, may be in
// use by guests of other users; of others that is an ErrInUse. A file system that has no owners, or lets nobody change them, is
// no error: QEMU itself will say what it can't open.
func (k *Keeper) Give(path string, to Owner, shared bool) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.close()
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := f.owner()
	if err != nil {
		return err
	}
	users, was := f.memory()
	if users == 0 {
		was = now
	}
	if users > 0 && now != to && !shared {
		return fmt.Errorf("give %q to %s: %w", path, to, ErrInUse)
	}
	f.remember(users+1, was)
	if now == to {
		return nil
	}
	if err := f.chown(to); err != nil {
		f.remember(users, was)
		return err
	}
	return nil
}

// TakeBack undoes one Give. The last one gives the file back to whose it was. A file that is gone is no error. A shared file of which
// nothing is remembered is left as it is, since others may use it.
func (k *Keeper) TakeBack(path string, shared bool) error {
	f, err := open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	k.mu.Lock()
	defer k.mu.Unlock()
	users, was := f.memory()
	switch {
	case users > 1:
		f.remember(users-1, was)
		return nil
	case users == 0 && shared:
		return nil
	}
	f.remember(0, was)
	return f.chown(was)
}

// file is a file that is held, so that all that is done to it is done to the same one whatever its path comes to mean.
type file struct {
	path string
	fd   int
}

func open(path string) (file, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return file{}, fmt.Errorf("open %q: %w", path, err)
	}
	return file{path: path, fd: fd}, nil
}

func (f file) close() { _ = unix.Close(f.fd) }

// held is a path that means the held file and nothing else.
func (f file) held() string { return "/proc/self/fd/" + strconv.Itoa(f.fd) }

func (f file) owner() (Owner, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return Owner{}, fmt.Errorf("look at %q: %w", f.path, err)
	}
	return Owner{UID: st.Uid, GID: st.Gid}, nil
}

// chown leaves a file alone whose file system refuses by its nature.
func (f file) chown(to Owner) error {
	err := os.Chown(f.held(), int(to.UID), int(to.GID))
	for _, natural := range []error{unix.EOPNOTSUPP, unix.EPERM, unix.EROFS, unix.ENOSYS} {
		if errors.Is(err, natural) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("unable to set user and group to '%d:%d' on '%s': %w", to.UID, to.GID, f.path, errors.Unwrap(err))
	}
	return nil
}

// memory returns how many guests use the file and whose it was before; none and root's if nothing that can be believed is remembered.
func (f file) memory() (users int, was Owner) {
	written, err := strconv.ParseInt(f.get(bootAttr), 10, 64)
	boot := bootTime()
	if err != nil || boot == 0 || written < boot-bootSlack || written > boot+bootSlack {
		return 0, Owner{}
	}
	users, err = strconv.Atoi(f.get(countAttr))
	was, ok := parse(f.get(ownerAttr))
	if err != nil || users < 1 || !ok {
		return 0, Owner{}
	}
	return users, was
}

func (f file) get(attr string) string {
	value := make([]byte, maxAttr)
	n, err := unix.Getxattr(f.held(), attr, value)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(value[:n]), "\x00")
}

// remember writes the attributes, or removes them if nobody uses the file. Where it can't, nothing is remembered.
func (f file) remember(users int, was Owner) {
	if users == 0 {
		for _, attr := range []string{countAttr, ownerAttr, bootAttr} {
			_ = unix.Removexattr(f.held(), attr)
		}
		return
	}
	for _, a := range []struct{ name, value string }{
		{bootAttr, strconv.FormatInt(bootTime(), 10)}, {ownerAttr, was.String()}, {countAttr, strconv.Itoa(users)},
	} {
		if unix.Setxattr(f.held(), a.name, []byte(a.value), 0) != nil {
			return
		}
	}
}

// bootTime is when the host has booted, in seconds since 1970, from proc_stat(5); 0 if unknown.
func bootTime() int64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
