package client

import (
	"context"
	"fmt"
)

// Flags of Acquire.
const noWait = 0x8

// Version returns the version of the daemon, for example 3, 8, 5.
func (c *Client) Version(ctx context.Context) ([3]int, error) {
	h, _, err := c.call(ctx, header{command: cmdVersion}, nil, 0)
	if err != nil {
		return [3]int{}, fmt.Errorf("ask for the version of sanlock: %w", err)
	}
	return [3]int{int(h.data2 >> 24), int(h.data2 >> 16 & 0xff), int(h.data2 >> 8 & 0xff)}, nil
}

// Acquire takes leases for a process that has registered itself, all or none, at most MaxResources. The owner's name is for people. It does
// not wait for another owner, but may take seconds to find out whether there is one.
func (c *Client) Acquire(ctx context.Context, pid int, owner string, leases []Resource) error {
	h, body, err := acquireRequest(uint32(pid), owner, leases)
	if err == nil {
		_, _, err = c.call(ctx, h, body, 0)
	}
	return named("take leases", err)
}

func acquireRequest(pid uint32, owner string, leases []Resource) (header, []byte, error) {
	if len(leases) > MaxResources {
		return header{}, nil, fmt.Errorf("%d leases are asked for, at most %d can be at a time", len(leases), MaxResources)
	}
	var body []byte
	for _, r := range leases {
		if err := r.Check(); err != nil {
			return header{}, nil, err
		}
		body = appendPlacedResource(body, r)
	}
	h := header{command: cmdAcquire, flags: noWait, data: uint32(len(leases)), data2: pid}
	return h, appendOptions(body, owner), nil
}

// Release gives leases of a process up; the daemon stops counting the process as an owner at once, and answers when the storage says so
// too. Result -1 says that the process had not all of them.
func (c *Client) Release(ctx context.Context, pid int, leases []Resource) error {
	var body []byte
	for _, r := range leases {
		if err := r.Check(); err != nil {
			return named("give up leases", err)
		}
		body = appendResource(body, Resource{Lockspace: r.Lockspace, Name: r.Name, Shared: r.Shared})
	}
	_, _, err := c.call(ctx, header{command: cmdRelease, data: uint32(len(leases)), data2: uint32(pid)}, body, 0)
	return named("give up leases", err)
}

// Join has the host join a lockspace, and returns once it has, which takes twice the I/O timeout at the least. That timeout is in seconds,
// 0 for the daemon's own.
func (c *Client) Join(ctx context.Context, l Lockspace, ioTimeout uint32) error {
	return c.lockspace(ctx, "join", header{command: cmdAddLockspace, data: ioTimeout}, l)
}

// Leave has the host leave a lockspace. The daemon kills all processes that have leases of it.
func (c *Client) Leave(ctx context.Context, l Lockspace) error {
	return c.lockspace(ctx, "leave", header{command: cmdLeaveLockspace}, l)
}

// InitLockspace writes an empty lockspace to its place.
func (c *Client) InitLockspace(ctx context.Context, l Lockspace, ioTimeout uint32) error {
	return c.lockspace(ctx, "make", header{command: cmdWriteLockspace, data2: ioTimeout}, l)
}

// ReadLockspace finds out whether there is a lockspace of that name at its place.
func (c *Client) ReadLockspace(ctx context.Context, l Lockspace) error {
	return c.lockspace(ctx, "read", header{command: cmdReadLockspace}, l)
}

func (c *Client) lockspace(ctx context.Context, verb string, h header, l Lockspace) error {
	err := l.Check()
	if err == nil {
		_, _, err = c.call(ctx, h, appendLockspace(nil, l), 0)
	}
	return named(fmt.Sprintf("%s lockspace %q", verb, l.Name), err)
}

// Align returns the size in bytes of a lease, and of a lockspace, at a place.
func (c *Client) Align(ctx context.Context, d Disk) (int64, error) {
	if err := d.Check(); err != nil {
		return 0, named("ask for the size of a lease", err)
	}
	h, _, err := c.sized(ctx, header{command: cmdAlign}, appendDisk(nil, d))
	return int64(h.result()), named("ask for the size of a lease", err)
}

// sized is call for an answer whose result is a number when it is positive.
func (c *Client) sized(ctx context.Context, h header, body []byte) (header, []byte, error) {
	answer, rest, err := c.call(ctx, h, body, 0)
	if r := answer.result(); r > 0 {
		return answer, nil, nil
	}
	return answer, rest, err
}

// InitResource writes a lease that nobody has to its place.
func (c *Client) InitResource(ctx context.Context, r Resource) error {
	err := r.Check()
	if err == nil {
		_, _, err = c.call(ctx, header{command: cmdWriteResource}, appendPlacedResource(nil, r), 0)
	}
	return named(fmt.Sprintf("make lease %q", r.Name), err)
}

// ReadResource returns the present version of the lease at its place, and finds out whether it is that lease.
func (c *Client) ReadResource(ctx context.Context, r Resource) (uint64, error) {
	if err := r.Check(); err != nil {
		return 0, named(fmt.Sprintf("read lease %q", r.Name), err)
	}
	_, body, err := c.call(ctx, header{command: cmdReadResource}, appendPlacedResource(nil, r), resourceSize)
	if err != nil {
		return 0, named(fmt.Sprintf("read lease %q", r.Name), err)
	}
	read, _ := parseResource(body)
	return read.Version, nil
}

// maxOwners is how many hosts a lockspace can have.
const maxOwners = 2000

// Owners returns the hosts that have a lease, as the storage says.
func (c *Client) Owners(ctx context.Context, r Resource) ([]Owner, error) {
	what := fmt.Sprintf("read owners of lease %q", r.Name)
	if err := r.Check(); err != nil {
		return nil, named(what, err)
	}
	conn, err := c.open(ctx, header{command: cmdReadOwners}, appendPlacedResource(nil, r))
	if err != nil {
		return nil, named(what, err)
	}
	defer conn.Close()
	owners, err := readOwners(conn)
	if err != nil {
		return nil, reason(ctx, what, err)
	}
	return owners, nil
}

// Registration is what a process says to register itself for good: it can't ask for anything on that connection any more, so that
// what inherits it can't either. A kill path is a program that the daemon runs once in place of a SIGTERM to the process, when its
// leases are being lost; the process has the daemon's grace time from then on. It may be empty.
func Registration(killPath string) []Exchange {
	exchanges := []Exchange{{Send: message(header{command: cmdRegister, data2: 0}, nil)}}
	if killPath != "" {
		body := appendText(nil, killPath, maxProgram)
		exchanges = append(exchanges, answered(header{command: cmdKillPath, data2: itself}, appendText(body, "", maxProgram)))
	}
	const restrictAll = 0x1
	return append(exchanges, answered(header{command: cmdRestrict, flags: restrictAll, data2: itself}, nil))
}

// Exchange is a message and the answer that it must get, in the bits of a mask.
type Exchange struct {
	Send, Want, Mask []byte
}

// answered is an exchange with an answer of success.
func answered(h header, body []byte) Exchange {
	e := Exchange{Send: message(h, body), Want: make([]byte, headerSize), Mask: make([]byte, headerSize)}
	for i, want := range map[int]uint32{0: magic, 2: uint32(h.command), 6: 0} {
		endian.PutUint32(e.Want[4*i:], want)
		endian.PutUint32(e.Mask[4*i:], ^uint32(0))
	}
	return e
}

// named says what failed.
func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
