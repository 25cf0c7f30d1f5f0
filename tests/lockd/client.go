package lockd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lodgevirt/lodge/tests/wire"
)

// The daemon's programs: virtlockd's (src/locking/lock_protocol.x of libvirt), and our own.
var (
	classic = wire.Program{Number: 0x0EA7BEEF, Version: 1}
	own     = wire.Program{Number: 0x4C444C4B, Version: 1}
)

// Procedures of virtlockd's program.
const (
	procRegister       = 1
	procRestrict       = 2
	procNew            = 3
	procCreateResource = 4
	procDeleteResource = 5
	procAcquire        = 6
	procRelease        = 7
	procCreateSpace    = 8
)

// Procedures of our own.
const (
	ownAcquire    = 1
	ownSetProcess = 2
	ownRelease    = 3
	ownList       = 4
	ownStatus     = 6
)

// Flags of Acquire.
const (
	Shared     = 1
	Autocreate = 2
)

// Owner is for whom a connection acts, or a guest in one generation.
type Owner struct {
	UUID [16]byte
	Name string
	ID   uint32
	PID  int
	// Generation and Start are of our own program only: how often the guest was started, and when its process has started.
	Generation uint64
	Start      uint64
}

// Resource is what is locked in our own program.
type Resource struct {
	Space, Name string
	Shared      bool
	Temporary   bool
}

// Lease is an entry of our daemon's list.
type Lease struct {
	Number  uint64
	Owner   Owner
	Classic bool
	Resource
	Path string
	// State is 1 for held, 2 for unproven and 3 for lost.
	State  uint32
	Detail string
}

// Held is the state of a lease whose lock the daemon has.
const Held = 1

// Status is our daemon at a glance.
type Status struct {
	PID                          int
	Version                      string
	Held, Unproven, Lost, Owners uint32
	Clients                      uint32
}

// Client is a connection to a lock daemon.
type Client struct {
	conn *wire.Conn
	args []byte
}

// Dial connects.
func Dial(socket string) (*Client, error) {
	conn, err := wire.Dial(socket)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn}, nil
}

// Over makes a client of a connected socket, which is its own from now on.
func Over(fd int) *Client { return &Client{conn: wire.New(fd)} }

// Close closes the connection.
func (c *Client) Close() { c.conn.Close() }

// HangUp closes the connection when the daemon has closed it, so that it knows that nobody is there.
func (c *Client) HangUp() error { return c.conn.HangUp() }

// SetPatience bounds the wait for each answer.
func (c *Client) SetPatience(d time.Duration) error { return c.conn.SetPatience(d) }

// Register says for whom the connection acts.
func (c *Client) Register(o Owner) error {
	c.args = append(c.args[:0], o.UUID[:]...)
	c.args = wire.Uint32(wire.Uint32(wire.Uint32(wire.String(c.args, o.Name), o.ID), uint32(o.PID)), 0)
	return c.classic(procRegister)
}

// Restrict gives up all rights of the connection.
func (c *Client) Restrict() error {
	c.args = wire.Uint32(c.args[:0], 0)
	return c.classic(procRestrict)
}

// NewSpace adds a lockspace, which must be new.
func (c *Client) NewSpace(path string) error {
	c.args = wire.Uint32(wire.String(c.args[:0], path), 0)
	return c.classic(procNew)
}

// CreateSpace adds a lockspace if it is not there.
func (c *Client) CreateSpace(path string) error {
	c.args = wire.String(c.args[:0], path)
	return c.classic(procCreateSpace)
}

// CreateResource makes a resource's file.
func (c *Client) CreateResource(space, name string) error {
	return c.resource(procCreateResource, space, name, 0)
}

// DeleteResource removes a resource's file.
func (c *Client) DeleteResource(space, name string) error {
	return c.resource(procDeleteResource, space, name, 0)
}

// Acquire takes a lock.
func (c *Client) Acquire(space, name string, flags uint32) error {
	return c.resource(procAcquire, space, name, flags)
}

// Release drops it.
func (c *Client) Release(space, name string) error {
	return c.resource(procRelease, space, name, 0)
}

func (c *Client) resource(procedure uint32, space, name string, flags uint32) error {
	c.args = wire.Uint32(wire.String(wire.String(c.args[:0], space), name), flags)
	return c.classic(procedure)
}

func (c *Client) classic(procedure uint32) error {
	_, err := c.conn.Call(classic, procedure, c.args)
	return err
}

// Take takes locks in our own program, all or none, and returns descriptors of them for the guest to inherit.
func (c *Client) Take(o Owner, resources ...Resource) ([]*os.File, error) {
	args := appendResources(appendOwner(nil, o), resources)
	_, files, err := c.conn.CallFiles(own, ownAcquire, wire.Uint32(args, 0))
	return files, err
}

// SetProcess says which process an owner has become.
func (c *Client) SetProcess(o Owner) error {
	_, err := c.conn.Call(own, ownSetProcess, appendOwner(nil, o))
	return err
}

// Drop drops locks of an owner, all if none is named, and returns how many there were.
func (c *Client) Drop(o Owner, resources ...Resource) (int, error) {
	args := append([]byte(nil), o.UUID[:]...)
	payload, err := c.conn.Call(own, ownRelease, appendResources(wire.Uint64(args, o.Generation), resources))
	r := wire.Reader{Rest: payload}
	n := int(r.Uint32())
	if err == nil {
		err = r.Err
	}
	return n, err
}

// List lists all leases in ascending order of their numbers.
func (c *Client) List() ([]Lease, error) {
	var all []Lease
	for more := true; more; {
		after := uint64(0)
		if len(all) > 0 {
			after = all[len(all)-1].Number
		}
		payload, err := c.conn.Call(own, ownList, wire.Uint64(nil, after))
		if err != nil {
			return nil, err
		}
		var page []Lease
		if page, more, err = parseLeases(payload); err != nil {
			return nil, err
		}
		if more && len(page) == 0 {
			return nil, errors.New("list leases: more are promised, and none come")
		}
		all = append(all, page...)
	}
	return all, nil
}

// parseLeases reads a page of the list, and whether there is another. What newer daemons add behind it is left alone.
func parseLeases(payload []byte) (page []Lease, more bool, err error) {
	r := wire.Reader{Rest: payload}
	for range r.Count(leaseSize) {
		page = append(page, readLease(&r))
	}
	if more = r.Bool(); r.Err != nil {
		return nil, false, fmt.Errorf("list leases: %w", r.Err)
	}
	return page, more, nil
}

// Status reads our daemon at a glance.
func (c *Client) Status() (Status, error) {
	payload, err := c.conn.Call(own, ownStatus, nil)
	if err != nil {
		return Status{}, err
	}
	r := wire.Reader{Rest: payload}
	s := Status{PID: int(r.Uint32()), Version: r.String()}
	r.Uint64() // since when
	s.Held, s.Unproven, s.Lost, s.Owners, s.Clients = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	if r.Err != nil {
		return s, fmt.Errorf("read status: %w", r.Err)
	}
	return s, nil
}

func appendOwner(b []byte, o Owner) []byte {
	b = wire.String(append(b, o.UUID[:]...), o.Name)
	b = wire.Uint64(wire.Uint32(b, o.ID), o.Generation)
	return wire.Uint64(wire.Uint32(b, uint32(o.PID)), o.Start)
}

func appendResources(b []byte, resources []Resource) []byte {
	b = wire.Uint32(b, uint32(len(resources)))
	for _, r := range resources {
		b = wire.String(wire.String(wire.String(b, r.Space), r.Name), "")
		b = wire.Bool(wire.Bool(b, r.Shared), r.Temporary)
	}
	return b
}

// leaseSize is the least size of an encoded lease.
const leaseSize = 96

func readLease(r *wire.Reader) Lease {
	l := Lease{Number: r.Uint64()}
	copy(l.Owner.UUID[:], r.Fixed(16))
	l.Owner.Name, l.Owner.ID, l.Owner.Generation = r.String(), r.Uint32(), r.Uint64()
	l.Owner.PID, l.Owner.Start = int(int32(r.Uint32())), r.Uint64()
	l.Classic = r.Bool()
	l.Space, l.Name = r.String(), r.String()
	_ = r.String() // the disk, which tests do not name
	l.Shared, l.Temporary = r.Bool(), r.Bool()
	l.Path, l.State, l.Detail = r.String(), r.Uint32(), r.String()
	r.Uint64() // since when
	return l
}

// resourceBusy is libvirt's number for what another has (VIR_ERR_RESOURCE_BUSY).
const resourceBusy = 87

// Busy says whether an error is the refusal of a lock that another has.
func Busy(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused) && refused.Code == resourceBusy
}
