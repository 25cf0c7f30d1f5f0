package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Kinds of state in the daemon's answer, and how much of them is asked for.
const (
	stateAll       = 0
	stateDaemon    = 1
	stateClient    = 2
	stateLockspace = 3
	stateResource  = 4
	stateHost      = 5
)

// Bounds of an answer.
const (
	maxStateText = 4096
	maxStates    = 1 << 17
)

// Lists in which a lockspace or a lease can be.
const (
	// ListJoined is that of lockspaces that the host has joined.
	ListJoined = "spaces"
	// ListHeld is that of leases that processes have.
	ListHeld = "held"
	// ListAdding is that of lockspaces that are being joined and of leases that are being taken, ListRemoving of the opposite.
	ListAdding   = "add"
	ListRemoving = "rem"
)

// Status is what the daemon knows at one moment.
type Status struct {
	// Now is the time of the daemon's clock, CLOCK_MONOTONIC, in seconds.
	Now uint64
	// Grace is for how many seconds a process lives on after its kill path was run or it got a SIGTERM.
	Grace uint64
	// Processes are those that are connected and have registered.
	Processes []Process
	// Lockspaces are all that are joined, being joined or being left.
	Lockspaces []LockspaceStatus
	// Leases are all of them, one entry for each owner. Not in Lockspaces' answer.
	Leases []LeaseStatus
}

// Process is a process that has registered.
type Process struct {
	// PID is its pid.
	PID int
	// Name is what it is called, from Acquire.
	Name string
	// Kills counts how often the daemon has tried to end it.
	Kills uint64
	// Active says that a request about it is under way: what it has is about to change.
	Active bool
}

// LockspaceStatus is how well a lockspace is.
type LockspaceStatus struct {
	Lockspace
	// List is where it is.
	List string
	// IOTimeout is in seconds: this host renews its own lease every two of them and is without it after eight.
	IOTimeout uint64
	// Renewed is when this host's own lease was renewed last, by the daemon's clock.
	Renewed uint64
	// Failed says that the lockspace is being lost: the daemon kills all processes that have leases of it.
	Failed bool
	// Corrupt is what is wrong with the lockspace on the storage, 0 for nothing.
	Corrupt Result
	// Result is that of the last renewal, 1 for success.
	Result Result
}

// LeaseStatus is a lease and one process that has it, or nearly.
type LeaseStatus struct {
	Resource
	// List is where it is.
	List string
	// PID is its owner.
	PID int
}

// Host is a host of a lockspace.
type Host struct {
	// ID is its number, Generation counts the times that it has joined.
	ID         uint64
	Generation uint64
	// Name is what it calls itself.
	Name string
	// LastLive is when it was last seen to renew its own lease, by the daemon's clock.
	LastLive uint64
	// IOTimeout is its own, in seconds.
	IOTimeout uint64
}

// Status asks for all.
func (c *Client) Status(ctx context.Context) (*Status, error) { return c.status(ctx, stateAll) }

// Lockspaces asks for all but the leases, which is less to tell.
func (c *Client) Lockspaces(ctx context.Context) (*Status, error) {
	return c.status(ctx, stateLockspace)
}

func (c *Client) status(ctx context.Context, depth uint32) (*Status, error) {
	s := &Status{}
	err := c.states(ctx, header{command: cmdStatus, data: depth}, nil, s.add)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Hosts returns the hosts that were seen in a lockspace.
func (c *Client) Hosts(ctx context.Context, lockspace string) ([]Host, error) {
	if err := CheckName(lockspace); err != nil {
		return nil, err
	}
	var hosts []Host
	body := appendLockspace(nil, Lockspace{Name: lockspace})
	err := c.states(ctx, header{command: cmdHostStatus}, body, func(s *state) {
		if s.kind == stateHost {
			hosts = append(hosts, Host{
				ID: uint64(s.data32), Generation: s.number("owner_generation"), Name: s.values["owner_name"],
				LastLive: s.number("last_live"), IOTimeout: s.number("io_timeout"),
			})
		}
	})
	return hosts, err
}

// states makes a request whose answer is a row of states that ends with the connection.
func (c *Client) states(ctx context.Context, h header, body []byte, each func(*state)) error {
	conn, err := c.open(ctx, h, body)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	answer, err := readHeader(r, h.command)
	if err == nil {
		err = failed(answer.result())
	}
	if err == nil {
		err = readStates(r, each)
	}
	if err != nil {
		return reason(ctx, "ask for the status of sanlock", err)
	}
	return nil
}

// state is one part of a status.
type state struct {
	kind      uint32
	data32    uint32
	data64    uint64
	name      string
	values    map[string]string
	lockspace Lockspace
	lease     Resource
}

func (s *state) number(key string) uint64 {
	n, _ := strconv.ParseUint(s.values[key], 10, 64) // a daemon that does not say counts as 0
	return n
}

func (s *state) result(key string) Result {
	n, _ := strconv.ParseInt(s.values[key], 10, 32)
	return Result(n)
}

func readStates(r io.Reader, each func(*state)) error {
	for range maxStates {
		s, err := readState(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		each(s)
	}
	return fmt.Errorf("more than %d states", maxStates)
}

// readState returns io.EOF only where no state begins.
func readState(r io.Reader) (*state, error) {
	b := make([]byte, stateSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	s := &state{
		kind: endian.Uint32(b), data32: endian.Uint32(b[8:]), data64: endian.Uint64(b[16:]), name: cText(b[24 : 24+MaxName]),
	}
	length := endian.Uint32(b[24+MaxName:])
	if length > maxStateText {
		return nil, fmt.Errorf("text of %d bytes in a status", length)
	}
	text, err := readBody(r, int(length))
	if err != nil {
		return nil, err
	}
	s.values = parseValues(cText(text))
	switch s.kind {
	case stateLockspace:
		if b, err = readBody(r, lockspaceSize); err == nil {
			s.lockspace = parseLockspace(b)
		}
	case stateResource:
		s.lease, err = readLease(r)
	}
	return s, err
}

// readBody reads what must follow.
func readBody(r io.Reader, size int) ([]byte, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

func readLease(r io.Reader) (Resource, error) {
	b, err := readBody(r, resourceSize)
	if err != nil {
		return Resource{}, err
	}
	lease, disks := parseResource(b)
	if disks > MaxDisks {
		return Resource{}, fmt.Errorf("lease with %d places", disks)
	}
	for range disks {
		if b, err = readBody(r, diskSize); err != nil {
			return Resource{}, err
		}
		lease.Disks = append(lease.Disks, parseDisk(b))
	}
	return lease, nil
}

// readOwners reads the answer to Owners: a header, a lease, and its owners.
func readOwners(r io.Reader) ([]Owner, error) {
	h, err := readHeader(r, cmdReadOwners)
	if err != nil {
		return nil, err
	}
	if err := failed(h.result()); err != nil {
		return nil, err
	}
	if h.data2 > maxOwners {
		return nil, fmt.Errorf("lease with %d owners", h.data2)
	}
	if _, err := readBody(r, resourceSize); err != nil {
		return nil, err
	}
	var owners []Owner
	for range h.data2 {
		b, err := readBody(r, hostSize)
		if err != nil {
			return nil, err
		}
		owners = append(owners, parseOwner(b))
	}
	return owners, nil
}

// parseValues reads "key=value" with spaces between them. A value ends at a space; the daemon puts values that may have some at the end.
func parseValues(text string) map[string]string {
	values := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		if key, value, ok := strings.Cut(word, "="); ok {
			values[key] = value
		}
	}
	return values
}

// add takes a part of a status in.
func (s *Status) add(part *state) {
	switch part.kind {
	case stateDaemon:
		s.Now, s.Grace = part.number("monotime"), part.number("kill_grace_seconds")
	case stateClient:
		if pid := int(int32(part.data32)); pid > 0 {
			s.Processes = append(s.Processes, Process{PID: pid, Name: part.name, Kills: part.number("kill_count"), Active: part.number("cmd_active") != 0})
		}
	case stateLockspace:
		s.Lockspaces = append(s.Lockspaces, LockspaceStatus{
			Lockspace: part.lockspace, List: part.values["list"], IOTimeout: part.number("io_timeout"),
			Renewed: part.number("renewal_last_success"), Result: part.result("renewal_last_result"), Corrupt: part.result("corrupt_result"),
			Failed: part.number("killing_pids") > 0 || part.number("space_dead") > 0,
		})
	case stateResource:
		lease := part.lease
		lease.Version = part.data64
		s.Leases = append(s.Leases, LeaseStatus{Resource: lease, List: part.values["list"], PID: int(int32(part.data32))})
	}
}

// Process returns a process that has registered, or nil.
func (s *Status) Process(pid int) *Process {
	for i := range s.Processes {
		if s.Processes[i].PID == pid {
			return &s.Processes[i]
		}
	}
	return nil
}

// Lockspace returns a lockspace by its name, or nil.
func (s *Status) Lockspace(name string) *LockspaceStatus {
	for i := range s.Lockspaces {
		if s.Lockspaces[i].Name == name {
			return &s.Lockspaces[i]
		}
	}
	return nil
}

// Of returns the lease of a name and lockspace that a process has, or nil.
func (s *Status) Of(pid int, lockspace, name string) *LeaseStatus {
	for i := range s.Leases {
		if l := &s.Leases[i]; l.PID == pid && l.Lockspace == lockspace && l.Name == name && l.List == ListHeld {
			return l
		}
	}
	return nil
}
