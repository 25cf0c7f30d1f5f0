package reexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
)

// errSocket says that a descriptor is not the socket that it is said to be.
var errSocket = errors.New("it is no such socket")

// claim checks that a descriptor is a listener, or a connection that came from one, which nobody has claimed yet. It returns where the socket
// is bound to.
func (p *Predecessor) claim(fd int, listens bool) (path string, err error) {
	if p.used[fd] {
		p.doubtful = true
		return "", fmt.Errorf("take over descriptor %d: it is used twice", fd)
	}
	path, listening, err := socket(fd)
	if err == nil && listening != listens {
		err = errSocket
	}
	if err != nil {
		p.doubtful = true
		return "", fmt.Errorf("take over descriptor %d: %w", fd, err)
	}
	p.used[fd] = true
	return path, nil
}

// isFile claims a descriptor of a file that can carry a lock. Several leases may share one.
func (p *Predecessor) isFile(fd int) bool {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if kind := st.Mode & unix.S_IFMT; err != nil || fd <= 2 || (kind != unix.S_IFREG && kind != unix.S_IFBLK) {
		p.doubtful = true
		return false
	}
	return true
}

// socket returns what a descriptor is: where the unix stream socket is bound to, and whether it listens.
func socket(fd int) (path string, listens bool, err error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return "", false, err
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return "", false, err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return "", false, err
	}
	name, ok := at.(*unix.SockaddrUnix)
	if !ok || kind != unix.SOCK_STREAM {
		return "", false, errSocket
	}
	return name.Name, n != 0, nil
}

// scan looks for listeners of the services that no state has told of. Connections that it finds are closed, because nobody knows what their
// clients have been told: those of ours connect again.
func (p *Predecessor) scan() {
	all := descriptors()
	bound := map[string]bool{}
	for _, fd := range all {
		path, listens, err := socket(fd)
		if err != nil || !listens || p.used[fd] {
			continue
		}
		name := p.serviceAt(path)
		if name == "" {
			continue
		}
		// It may be systemd's: the file is left to whoever listens next, who replaces one that nobody serves.
		p.used[fd], bound[path] = true, true
		p.found[name] = append(p.found[name], hub.Listener{FD: fd})
	}
	closed := 0
	for _, fd := range all {
		if path, listens, err := socket(fd); err == nil && !listens && bound[path] && !p.used[fd] {
			unix.Close(fd)
			closed++
		}
	}
	p.log.Error("a predecessor has left no good state: what its descriptors tell is used",
		"locks", len(p.locks.Locks), "services", len(p.found), "closed_connections", closed)
}

// serviceAt returns the service that listens at a path, or nothing. A listener that was bound elsewhere, such as in another mount
// namespace, is told by its name.
func (p *Predecessor) serviceAt(path string) string {
	for name, at := range p.at.Sockets {
		if path != "" && path == at {
			return name
		}
	}
	for name, at := range p.at.Sockets {
		if path != "" && filepath.Base(path) == filepath.Base(at) {
			return name
		}
	}
	return ""
}

// addUndescribed adds the locks of this process that no state describes. Besides a state that is lost or wrong there is virtlockd's, which
// names one descriptor of each file, where we may have had more before it.
func (p *Predecessor) addUndescribed() {
	described := map[int]bool{}
	for _, l := range p.locks.Locks {
		described[l.FD] = true
	}
	found, err := lockspace.Scan()
	if err != nil {
		p.log.Error("locks without a description cannot be looked for", "error", err)
		return
	}
	var own unix.Stat_t
	pid := unix.Stat(p.at.PIDFile, &own) == nil
	for _, f := range found {
		switch {
		case described[f.FD]:
		case pid && f.File == (lockspace.FileID{Dev: own.Dev, Ino: own.Ino}):
			p.pidFile = f.FD
		default:
			p.locks.Locks = append(p.locks.Locks, leases.Inherited{
				FD: f.FD, Resource: lockspace.Resource{Name: f.Path, Mode: f.Mode},
			})
		}
	}
}

// descriptors returns those of this process.
func descriptors() []int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range all {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, fd)
		}
	}
	return out
}
