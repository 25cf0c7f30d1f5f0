package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/cleanup"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Times of joining the lockspace of disks.
const (
	// joinTime bounds one attempt: a host whose number was another's before waits until that one is dead for sure.
	joinTime = 10 * time.Minute
	// joinPause is the time between attempts.
	joinPause = 5 * time.Second
)

// space is what is known of the lockspace of disks. Manager.mu guards it.
type space struct {
	joined  bool
	joining bool
	// err is why the host is not in it, known at what time; next is when it may try again to join.
	err   error
	known time.Time
	next  time.Time
	// changed is closed and replaced with each change.
	changed chan struct{}
}

// errGivenUp is why a lockspace that was joined is not any more.
var errGivenUp = errors.New("the daemon gives the lockspace of disks up because its storage does not answer or is damaged")

func (s *space) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *space) fail(err error) {
	s.err, s.known = err, time.Now()
	s.signal()
}

// reset forgets what was known under other settings.
func (s *space) reset() {
	s.joined, s.err, s.next = false, nil, time.Time{}
	s.signal()
}

// String says how the lockspace is.
func (s *space) String(c *config) string {
	switch {
	case !c.AutoDiskLeases:
		return "not used"
	case s.joined:
		return "joined"
	case s.err != nil:
		return s.err.Error()
	}
	return "being joined"
}

func (c *config) lockspace() client.Lockspace {
	return client.Lockspace{
		Name: diskSpace, HostID: uint64(c.HostID), Disk: client.Disk{Path: filepath.Join(c.DiskLeaseDir, diskSpace)},
	}
}

// awaitSpace returns once the host has joined the lockspace of disks, if any of the leases is of it, or has tried in vain since the call.
func (m *Manager) awaitSpace(ctx context.Context, wants []want) error {
	needed := false
	for _, w := range wants {
		needed = needed || w.lease != nil && w.lease.Lockspace == diskSpace
	}
	for began := time.Now(); needed; {
		m.mu.Lock()
		s := m.space
		auto := m.config.AutoDiskLeases
		m.space.next = time.Time{}
		m.mu.Unlock()
		switch {
		case s.joined || !auto:
			return nil
		case s.err != nil && !s.joining && s.known.After(began):
			return verr.New(verr.OperationFailed, "this host cannot join the lockspace of disks: %w", s.err)
		}
		m.look()
		select {
		case <-s.changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for this host to join the lockspace of disks: %w", ctx.Err())
		}
	}
	return nil
}

// keepSpace takes in what the daemon says of the lockspace of disks, nil for a daemon that is away, and has the host join it if it has
// not.
func (m *Manager) keepSpace(ctx context.Context, st *client.Status, away error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.config == nil || !m.config.AutoDiskLeases {
		return
	}
	s, own := &m.space, m.config.lockspace()
	if st == nil {
		s.joined = false
		s.fail(away)
		return
	}
	ls := st.Lockspace(diskSpace)
	joined := ls != nil && ls.Lockspace == own && ls.List == client.ListJoined && !ls.Failed
	if joined != s.joined {
		s.joined, s.err = joined, nil
		s.signal()
	}
	if ls != nil && ls.Failed {
		s.fail(errGivenUp)
	}
	// One that is being left, or is another's, cannot be joined now.
	if joined || s.joining || ls != nil && ls.Lockspace == own || time.Now().Before(s.next) {
		return
	}
	s.joining = true
	c, daemon := m.config, m.client
	m.loops.Go(func() {
		err := c.join(ctx, daemon)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.space.joining, m.space.next = false, time.Now().Add(joinPause)
		m.space.fail(err)
		m.look()
		if err != nil && ctx.Err() == nil {
			m.log.Error("lockspace of disks cannot be joined", "path", own.Disk.Path, "host_id", own.HostID, "error", err)
		}
	})
}

// join has the host join the lockspace of disks, which is made if it does not exist.
func (c *config) join(ctx context.Context, daemon *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	ls := c.lockspace()
	err := c.make(ctx, daemon, ls.Disk.Path, func(at client.Disk) error {
		fresh := ls
		fresh.Disk = at
		return daemon.InitLockspace(ctx, fresh, uint32(c.IOTimeout))
	})
	if err != nil {
		return err
	}
	err = daemon.Join(ctx, ls, uint32(c.IOTimeout))
	switch {
	case errors.Is(err, client.Exists), errors.Is(err, client.InProgress), errors.Is(err, client.Again):
		return nil // seen by the next look
	case errors.Is(err, client.Invalid):
		return fmt.Errorf("%w: the daemon has that lockspace under another host_id or path, or that path under another lockspace", err)
	}
	return err
}

// make makes a file of a lease or lockspace, whole or not at all, unless it exists. Its folder has to exist: one that is made where the
// shared storage should be mounted would be this host's alone.
func (c *config) make(ctx context.Context, daemon *client.Client, path string, write func(client.Disk) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("folder %q of leases is missing: it has to be on storage that all hosts share", dir)
	}
	f, err := os.CreateTemp(dir, cleanup.FreshPrefix+"*")
	if err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := c.own(f); err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	at := client.Disk{Path: f.Name()}
	size, err := daemon.Align(ctx, at)
	if err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	if err := allocate(f, size); err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	if err := write(at); err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("make %q: %w", path, err)
	}
	// Whoever is first among the hosts makes the file; the others use it.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %q: %w", path, err)
	}
	return syncFolder(dir)
}

// own gives a file to whom the settings say.
func (c *config) own(f *os.File) error {
	mode := fs.FileMode(0o600)
	if c.gid >= 0 {
		mode = 0o660
	}
	if c.uid >= 0 || c.gid >= 0 {
		if err := f.Chown(c.uid, c.gid); err != nil {
			return err
		}
	}
	return f.Chmod(mode)
}

// allocate gives a file its size, with room on the storage where that can be had.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make a lease last: %w", err)
	}
	defer d.Close()
	// Some network file systems cannot; they keep the order by themselves.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("make a lease last: %w", err)
	}
	return nil
}

// makeLeases makes the files of leases for disks that have none yet.
func (c *config) makeLeases(ctx context.Context, daemon *client.Client, wants []want) error {
	for _, w := range wants {
		if w.lease == nil || w.lease.Lockspace != diskSpace || w.resource.GetDisk() == "" {
			continue
		}
		err := c.make(ctx, daemon, w.lease.Disks[0].Path, func(at client.Disk) error {
			fresh := *w.lease
			fresh.Disks = []client.Disk{at}
			return daemon.InitResource(ctx, fresh)
		})
		if err != nil {
			return verr.New(verr.OperationFailed, "%s gets no lease: %w", describe(w.resource), err)
		}
	}
	return nil
}
