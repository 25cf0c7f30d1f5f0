package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// A guest that lives gets the descriptor of a lock by its monitor, under a name that follows from the lock (getfd): QEMU keeps it for as
// long as it lives, also while nobody is connected, and whoever takes the lock back finds it among the process's descriptors. It is not put
// into a set (add-fd): up to version 9.0, a QEMU that runs closes what is in one and not in use when its monitor is left.

// locksName is the file that says which descriptors QEMU was given, and which devices each is for.
const locksName = "locks.json"

// locks are descriptors that are to be handed to QEMU, by the name they get.
type locks map[string]*os.File

// takeLocks gets the descriptors of leases from the core. What was taken is returned with an error, too.
func (d *Driver) takeLocks(ctx context.Context, leases []*pb.Lease) (locks, error) {
	taken := locks{}
	for _, lease := range leases {
		if len(lease.GetToken()) == 0 {
			continue
		}
		file, err := d.core.TakeFile(ctx, lease.GetToken())
		if err != nil {
			return taken, verr.New(verr.Internal, "lock of %q did not arrive: %w", lease.GetResource(), err)
		}
		taken[lockName(lease)] = file
	}
	return taken, nil
}

// lockName is what QEMU knows the descriptor of a lock by.
func lockName(lease *pb.Lease) string {
	sum := sha256.Sum256([]byte(lease.GetLockspace() + "\x00" + lease.GetResource()))
	return "lodge-lock-" + hex.EncodeToString(sum[:16])
}

func (k locks) names() []string { return slices.Sorted(maps.Keys(k)) }

func (k locks) close() {
	for _, f := range k {
		_ = f.Close() // a duplicate, which nobody has written to
	}
}

// hand gives QEMU the descriptors. A name that it has gets the new one before it loses the old one.
func (k locks) hand(ctx context.Context, c *change) error {
	for _, name := range k.names() {
		if err := c.sendFile(ctx, k[name], name); err != nil {
			return err
		}
	}
	return nil
}

// lockUser is what locks of a device are noted for.
func lockUser(dev domxml.Device) string {
	if l, ok := dev.Value.(*libvirtxml.DomainLease); ok {
		return strings.Join([]string{"lease", l.Lockspace, l.Key}, "/")
	}
	return dev.Alias()
}

// lockUsers are the descriptors that QEMU has, with what each is for. Those of an earlier resume are for nothing in particular.
type lockUsers map[string][]string

func (l *life) readLocks() (lockUsers, error) {
	users := lockUsers{}
	text, err := l.folder.read(locksName)
	if errors.Is(err, fs.ErrNotExist) {
		return users, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("read locks of guest: %w", err)
	}
	return users, nil
}

func (l *life) writeLocks(users lockUsers) error {
	text, err := json.Marshal(users)
	if err != nil {
		return fmt.Errorf("note locks of guest: %w", err)
	}
	return l.put(locksName, text)
}

// useLocks notes that descriptors are for a device, or for nothing in particular.
func (l *life) useLocks(user string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	users, err := l.readLocks()
	if err != nil {
		return err
	}
	for _, name := range names {
		list := users[name]
		if user != "" && !slices.Contains(list, user) {
			list = append(list, user)
		}
		users[name] = list
	}
	return l.writeLocks(users)
}

// closeLocks has QEMU close descriptors, unless they are noted for something.
func (l *life) closeLocks(ctx context.Context, t talk, names []string) error {
	users, err := l.readLocks()
	if err != nil {
		return err
	}
	return tellClosed(ctx, t, slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, used := users[name]
		return used
	}))
}

// tellClosed has QEMU close descriptors. It need not have them.
func tellClosed(ctx context.Context, t talk, names []string) error {
	for _, name := range names {
		if err := t.tell(ctx, cmdline.CloseFile(name)); err != nil && !isRefusal(err) {
			return err
		}
	}
	return nil
}

// leaveLocks has QEMU close the descriptors that were for a device alone. They are noted until they are closed: who is cut off closes them
// again.
func (l *life) leaveLocks(ctx context.Context, t talk, user string) error {
	users, err := l.readLocks()
	if err != nil {
		return err
	}
	var left []string
	changed := false
	for name, list := range users {
		if !slices.Contains(list, user) {
			continue
		}
		changed = true
		if users[name] = slices.DeleteFunc(list, func(u string) bool { return u == user }); len(users[name]) == 0 {
			delete(users, name)
			left = append(left, name)
		}
	}
	if !changed {
		return nil
	}
	if err := tellClosed(ctx, t, left); err != nil {
		return err
	}
	if err := l.pass(ctx); err != nil {
		return err
	}
	return l.writeLocks(users)
}

// leaveStrangers has QEMU close the descriptors of devices that have left the live definition.
func (l *life) leaveStrangers(ctx context.Context, t talk) error {
	if l.devices.unsettled.Load() {
		return nil // a device may be on its way into it
	}
	users, err := l.readLocks()
	if err != nil || len(users) == 0 {
		return err
	}
	known := map[string]bool{}
	for _, dev := range domxml.Devices(l.live().Devices) {
		known[lockUser(dev)] = true
	}
	for _, user := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(users))...)))) {
		if known[user] {
			continue
		}
		if err := l.leaveLocks(ctx, t, user); err != nil {
			return err
		}
	}
	return nil
}

// relock gives QEMU the locks of a guest that is about to go on. It returns what closes those of before that were not taken again, to be
// called once the guest does.
func (c *change) relock(ctx context.Context, leases []*pb.Lease) (after func(), err error) {
	taken, err := c.driver.takeLocks(ctx, leases)
	defer taken.close()
	if err == nil {
		err = taken.hand(ctx, c)
	}
	if err == nil {
		err = c.life.useLocks("", taken.names())
	}
	if err != nil || len(taken) == 0 {
		return func() {}, err
	}
	names := taken.names()
	return func() {
		users, err := c.life.readLocks()
		if err == nil {
			var old []string
			for name := range users {
				if !slices.Contains(names, name) {
					old = append(old, name)
					delete(users, name)
				}
			}
			if err = tellClosed(ctx, c.talk, old); err == nil {
				err = c.life.writeLocks(users)
			}
		}
		if err != nil {
			c.life.log.Warn("locks of an earlier resume stay with guest", "error", err)
		}
	}, nil
}
