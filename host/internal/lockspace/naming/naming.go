// Package naming chooses the lock of a disk as libvirt does: a file in the folder that is configured for what kind of disk it is.
//
// A logical volume and a SCSI unit may have different paths on different hosts, so they are named by what is the same everywhere: the volume's
// UUID and the unit's identifier, which the tools of LVM and udev tell. Files are named by the SHA-256 of their path. A disk whose
// name cannot be found out for certain is an error and never gets a weaker name, because hosts that name it differently would
// both be granted it.
//
// A Namer is safe concurrently. It remembers names by device; a device node that was made anew is asked about anew. Every tool has a
// deadline, and is run without a shell.
package naming

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

const (
	// toolTime bounds how long a tool may take, and toolGrace how long its pipes may stay open then.
	toolTime  = 15 * time.Second
	toolGrace = time.Second
	// maxOutput bounds what is read from a tool, in bytes.
	maxOutput = 4 << 10
	// maxKnown bounds the remembered names.
	maxKnown = 4096
)

// ErrTool says that a tool could not be run or did not end in good order, so that a disk's name is not known.
var ErrTool = errors.New("name of the disk cannot be found out")

// Folders are where lock files lie. An empty one is not used; if all are empty the disks themselves are locked.
type Folders struct {
	// File is for all disks that the others are not for.
	File string
	// LVM is for logical volumes.
	LVM string
	// SCSI is for SCSI units.
	SCSI string
}

// Namer names the locks of disks.
type Namer struct {
	folders Folders
	// devices is the folder of device nodes, and blocks the kernel's of block devices by number.
	devices, blocks string

	mu    sync.Mutex
	known map[node]name
}

// node is a device node. A number alone may be used again for another device.
type node struct {
	device, folder, inode uint64
	changed               unix.Timespec
}

// name is a disk's name in a folder, or in none.
type name struct {
	folder, key string
}

// New returns a namer for the folders.
func New(folders Folders) *Namer {
	return &Namer{folders: folders, devices: "/dev", blocks: "/sys/dev/block", known: map[node]name{}}
}

// Disk returns the lock of a disk. It runs a tool only for a block device, and only if there is a folder for such. Errors are
// lockspace.ErrName, ErrTool, the context's, or one of the system.
func (n *Namer) Disk(ctx context.Context, path string, mode lockspace.Mode) (lockspace.Resource, error) {
	r := lockspace.ForDisk(n.folders.File, path, mode)
	if n.folders.LVM == "" && n.folders.SCSI == "" || !strings.HasPrefix(path, n.devices+"/") {
		return r, nil
	}
	found, err := n.device(ctx, path)
	if err != nil {
		return lockspace.Resource{}, fmt.Errorf("name lock of disk %q: %w", path, err)
	}
	if found.key == "" {
		return r, nil
	}
	return lockspace.Resource{Lockspace: found.folder, Name: found.key, Mode: mode, Temporary: true, Disk: path}, nil
}

// device returns the name of a path under the folder of devices, which may be none.
func (n *Namer) device(ctx context.Context, path string) (name, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		// A volume that is not active has no node, but a name.
		return n.ask(ctx, path, 0)
	case err != nil:
		return name{}, err
	case st.Mode&unix.S_IFMT != unix.S_IFBLK:
		return name{}, nil
	}
	at := node{device: st.Rdev, folder: st.Dev, inode: st.Ino, changed: st.Ctim}
	n.mu.Lock()
	found, ok := n.known[at]
	n.mu.Unlock()
	if ok {
		return found, nil
	}
	if found, err = n.ask(ctx, path, st.Rdev); err != nil {
		return name{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxKnown {
		clear(n.known)
	}
	n.known[at] = found
	return found, nil
}

// ask asks the tools about a path. The device is 0 if there is no node.
func (n *Namer) ask(ctx context.Context, path string, device uint64) (name, error) {
	if n.folders.LVM != "" {
		id, err := n.volume(ctx, path, device)
		if id != "" || err != nil {
			return name{n.folders.LVM, id}, err
		}
	}
	if n.folders.SCSI != "" && device != 0 {
		id, err := n.unit(ctx, path)
		if id != "" || err != nil {
			return name{n.folders.SCSI, id}, err
		}
	}
	return name{}, nil
}

// volumeID is how LVM writes a UUID.
var volumeID = regexp.MustCompile(`^[0-9A-Za-z]{6}(-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}$`)

// volume returns the UUID of a logical volume, or nothing if the path is none.
func (n *Namer) volume(ctx context.Context, path string, device uint64) (string, error) {
	out, ok, err := run(ctx, "lvs", "--noheadings", "--unbuffered", "--nosuffix", "--options", "uuid", path)
	if err != nil {
		return "", err
	}
	if !ok {
		// lvs fails in the same way for what is no volume, and for a volume by a name that it does not go by. The kernel knows.
		return n.mapped(device), nil
	}
	if !volumeID.MatchString(out) {
		return "", fmt.Errorf("lvs says %q: %w", out, ErrTool)
	}
	return out, nil
}

// mapped returns the UUID of the logical volume that the kernel's device mapper has as a device, or nothing.
func (n *Namer) mapped(device uint64) string {
	if device == 0 {
		return ""
	}
	number := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	text, err := readSmall(filepath.Join(n.blocks, number, "dm", "uuid"))
	if err != nil {
		return ""
	}
	// LVM- and 32 characters each of the group and of the volume; hidden parts of volumes have a suffix.
	id, ok := strings.CutPrefix(text, "LVM-")
	if !ok || len(id) != 64 {
		return ""
	}
	id = id[32:]
	return strings.Join([]string{id[:6], id[6:10], id[10:14], id[14:18], id[18:22], id[22:26], id[26:]}, "-")
}

// unit returns the identifier of a SCSI unit, or nothing if the path is none.
func (n *Namer) unit(ctx context.Context, path string) (string, error) {
	out, ok, err := run(ctx, "scsi_id", "--replace-whitespace", "--whitelisted", "--device", path)
	if err != nil || !ok {
		return "", err
	}
	if strings.ContainsAny(out, "/\x00") || out == "." || out == ".." {
		return "", fmt.Errorf("scsi_id says %q: %w", out, ErrTool)
	}
	return out, nil
}

// places are where a tool is that is not on the path.
var places = map[string]string{"scsi_id": "/lib/udev/scsi_id", "lvs": "/sbin/lvs"}

// run runs a tool and returns the first line of what it prints, without blanks around. It reports false if the tool has ended with a
// status, which is how both tools say that a device is not theirs.
func run(ctx context.Context, tool string, args ...string) (out string, ok bool, err error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		path = places[tool]
	}
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	var text limited
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout = &text
	cmd.WaitDelay = toolGrace
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", false, fmt.Errorf("run %s: %w: %w", tool, ErrTool, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("run %s: %w: %w", tool, ErrTool, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text.text)), "\n")
	return strings.TrimSpace(line), true, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ text []byte }

func (l *limited) Write(b []byte) (int, error) {
	room := maxOutput - len(l.text)
	l.text = append(l.text, b[:min(len(b), room)]...)
	return len(b), nil
}

// readSmall returns the first bytes of a file of the kernel's, without a line end.
func readSmall(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text [256]byte
	n, err := unix.Read(fd, text[:])
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text[:n])), nil
}
