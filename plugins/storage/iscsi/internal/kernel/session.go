package kernel

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/scsi"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// session is a session of the kernel.
type session struct {
	// id is its number, dir its folder in sysfs.
	id, dir string
	// iface is the interface that it was made by, state what the kernel says of it.
	iface, state string
}

// loggedIn is the state of a session that can be used.
const loggedIn = "LOGGED_IN"

// healthy refuses a session whose target does not answer at present.
func (s *session) healthy(pool *define.Pool) error {
	if s.state == loggedIn {
		return nil
	}
	return storage.Failed("iSCSI target '%s' at %s does not answer: its session is %s", pool.Target(), pool.Portal(), s.state)
}

// attribute reads a file of sysfs; what is not there is empty.
func attribute(parts ...string) string {
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// find looks for a pool's session: that of its target at its address, as its initiator if it names one; this driver's own before others'.
// There may be none.
func (p *Pools) find(ctx context.Context, pool *define.Pool) (*session, error) {
	dirs, err := filepath.Glob(filepath.Join(p.sys(), "class/iscsi_session/session*"))
	if err != nil {
		return nil, storage.SystemError(err, "cannot list the sessions of iSCSI")
	}
	var found *session
	var at []string
	for _, dir := range dirs {
		if attribute(dir, "targetname") != pool.Target() {
			continue
		}
		if i := pool.Initiator(); i != "" && attribute(dir, "initiatorname") != i {
			continue
		}
		if at == nil {
			if at, err = addresses(ctx, pool.Portal()); err != nil {
				return nil, err
			}
		}
		id := strings.TrimPrefix(filepath.Base(dir), "session")
		if !p.connected(id, pool.Portal(), at) {
			continue
		}
		s := &session{id: id, dir: dir, iface: attribute(dir, "ifacename"), state: attribute(dir, "state")}
		if found == nil || s.iface == ifaceOf(pool) {
			found = s
		}
	}
	return found, nil
}

// connected reports whether a session was made for one of the addresses.
func (p *Pools) connected(id, portal string, at []string) bool {
	_, port, _ := net.SplitHostPort(portal)
	dir := filepath.Join(p.sys(), "class/iscsi_connection", "connection"+id+":0")
	if attribute(dir, "persistent_port") != port {
		return false
	}
	is, err := netip.ParseAddr(attribute(dir, "persistent_address"))
	return err == nil && slices.ContainsFunc(at, func(a string) bool {
		addr, err := netip.ParseAddr(a)
		return err == nil && addr.Unmap() == is.Unmap()
	})
}

// disk is a unit that the kernel has made a block device of.
type disk struct {
	bus, target, lun int
	// name is the device's, "sda", or empty if there is none yet.
	name string
	// size in bytes.
	size uint64
	// serial is what it is called for good, or empty.
	serial string
}

// disks are those of a session, by unit.
func (s *session) disks() []disk {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "device", "target*:*:*", "*:*:*:*"))
	if err != nil {
		return nil
	}
	var all []disk
	for _, dir := range dirs {
		const directAccess = "0"
		if attribute(dir, "type") != directAccess {
			continue
		}
		var n [4]int
		ok := true
		for i, text := range strings.Split(filepath.Base(dir), ":") {
			number, err := strconv.Atoi(text)
			if ok = ok && err == nil && i < len(n); ok {
				n[i] = number
			}
		}
		if ok {
			all = append(all, look(dir, disk{bus: n[1], target: n[2], lun: n[3]}))
		}
	}
	slices.SortFunc(all, func(a, b disk) int { return a.lun - b.lun })
	return all
}

// look completes what is known of a unit.
func look(dir string, d disk) disk {
	if page, err := os.ReadFile(filepath.Join(dir, "vpd_pg83")); err == nil {
		d.serial = scsi.ParseSerial(page)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "block"))
	if err != nil || len(entries) == 0 {
		return d
	}
	const sector = 512 // whatever the device's own is
	blocks, err := strconv.ParseUint(attribute(dir, "block", entries[0].Name(), "size"), 10, 54)
	if err == nil {
		d.name, d.size = entries[0].Name(), blocks*sector
	}
	return d
}
