// Package session keeps connections to Ceph for the pools of definitions. A connection is a cache: it takes some ten milliseconds to make and has
// threads and memory, so it is kept from call to call, made anew when it has broken or the definition or secret is another, and ended when the
// pool is stopped, or when others need its place. Nothing is kept that the next process would miss.
//
// A Store is safe concurrently. Get lends a Session, Release gives it back; a connection is closed when nobody has its session any more and
// no call of it is under way.
package session

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/lane"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// maxSessions is how many pools may have a connection at a time that is not in use.
	maxSessions = 64
	// threads is how many threads may be in calls for one pool, and maxLate with how many late calls new ones are refused.
	threads, maxLate = 16, 6
	// slowThreads is how many images may be removed at a time.
	slowThreads = 2
	// connectTime is how long a connection may take, less if the caller has less; connectSpare of the caller's time is for its answer.
	connectTime, connectSpare = 30 * time.Second, 3 * time.Second
)

// Store has the sessions of all pools.
type Store struct {
	dial ceph.Dialer
	log  hclog.Logger

	mu   sync.Mutex // guards all below, and refs, retired and used of sessions
	all  map[string]*Session
	tick uint64
}

// NewStore makes a store that connects by dial.
func NewStore(dial ceph.Dialer, log hclog.Logger) *Store {
	return &Store{dial: dial, log: log, all: map[string]*Session{}}
}

// Session is a pool with its connection.
type Session struct {
	// Def is the definition.
	Def *define.Pool
	// Lane is for all calls of the connection, Slow for the removal of what has lost its name, which may take minutes.
	Lane, Slow *lane.Lane

	store   *Store
	uuid    string
	mark    [sha256.Size]byte
	options ceph.Options
	refs    int
	used    uint64
	retired bool

	mu      sync.Mutex // guards link and dialing
	link    *Link
	dialing *dialing
}

// Link is a connection with its journal.
type Link struct {
	ceph.Pool
	Journal *journal.Journal
}

// dialing is a connection that is being made; done is closed when link or err is there.
type dialing struct {
	done chan struct{}
	link *Link
	err  error
}

// Get lends the session of a pool, which is to be released.
func (s *Store) Get(ref *pb.Pool) (*Session, error) {
	def, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	o := ceph.Options{Monitors: def.Monitors(), User: def.User(), Pool: def.Source.Name}
	if def.Source.Auth != nil {
		if len(ref.GetSecrets()) == 0 {
			return nil, verr.New(verr.AuthFailed, "the key of user '%s' did not come along", def.User()).In(verr.FromStorage)
		}
		o.Key = base64.StdEncoding.EncodeToString(ref.GetSecrets()[0].GetValue())
	}
	if def.Config != nil {
		for _, c := range def.Config.Settings {
			o.Settings = append(o.Settings, ceph.Setting{Name: c.Name, Value: c.Value})
		}
	}
	mark := sha256.Sum256([]byte(ref.GetXml() + "\x00" + o.Key))
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.all[ref.GetUuid()]
	if have == nil || have.mark != mark {
		s.retire(ref.GetUuid())
		s.makeRoom()
		have = &Session{Def: def, store: s, uuid: ref.GetUuid(), mark: mark, options: o}
		have.Lane, have.Slow = lane.New(def.Place(), threads, maxLate), lane.New(def.Place(), slowThreads, slowThreads)
		s.all[ref.GetUuid()] = have
	}
	s.tick++
	have.refs, have.used = have.refs+1, s.tick
	return have, nil
}

// makeRoom retires the session that was not used for the longest time, if there are too many. s.mu is held.
func (s *Store) makeRoom() {
	oldest := ""
	for uuid, x := range s.all {
		if x.refs == 0 && (oldest == "" || x.used < s.all[oldest].used) {
			oldest = uuid
		}
	}
	if len(s.all) >= maxSessions && oldest != "" {
		s.retire(oldest)
	}
}

// Drop ends the connection of a pool as soon as nobody has it.
func (s *Store) Drop(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire(uuid)
}

// retire takes a session out. s.mu is held.
func (s *Store) retire(uuid string) {
	x := s.all[uuid]
	if x == nil {
		return
	}
	delete(s.all, uuid)
	x.retired = true
	if x.refs == 0 {
		go x.end()
	}
}

// Hold lends a session once more, for work that may outlive its caller. It reports false if nobody has the session any more and it is ending.
func (x *Session) Hold() bool {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	if x.retired && x.refs == 0 {
		return false
	}
	x.refs++
	return true
}

// Release gives a session back.
func (x *Session) Release() {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	if x.refs--; x.refs == 0 && x.retired {
		go x.end()
	}
}

// end closes the connection when nothing of it is under way. Nobody waits for it: what it may wait for is Ceph.
func (x *Session) end() {
	x.Lane.Wait()
	x.Slow.Wait()
	x.mu.Lock()
	d, link := x.dialing, x.link
	x.link = nil
	x.mu.Unlock()
	if d != nil {
		<-d.done
		link = d.link
	}
	link.close()
}

func (l *Link) close() {
	if l == nil {
		return
	}
	l.Journal.Close()
	l.Pool.Close()
}

// Link connects, or returns the connection that there is.
func (x *Session) Link(ctx context.Context) (*Link, error) {
	x.mu.Lock()
	if x.link != nil {
		defer x.mu.Unlock()
		return x.link, nil
	}
	if x.dialing == nil {
		x.dialing = &dialing{done: make(chan struct{})}
		go x.connect(x.dialing, connectLimit(ctx))
	}
	d := x.dialing
	x.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, x.Lane.Ended(ctx)
	}
}

// connectLimit is how long a connection may take for a caller.
func connectLimit(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return connectTime
	}
	return max(time.Second, min(connectTime, time.Until(end)-connectSpare))
}

// connect makes the connection for all who wait for it.
func (x *Session) connect(d *dialing, limit time.Duration) {
	begun := time.Now()
	d.link, d.err = x.dial(limit, begun)
	x.mu.Lock()
	x.link, x.dialing = d.link, nil
	x.mu.Unlock()
	close(d.done)
}

func (x *Session) dial(limit time.Duration, begun time.Time) (*Link, error) {
	if err := probe(x.options.Monitors, min(limit, probeTime)); err != nil {
		return nil, verr.New(verr.OperationFailed, "no monitor of %s answers: %w", x.Def.Place(), err).In(verr.FromStorage)
	}
	o := x.options
	o.Timeout = limit - time.Since(begun)
	pool, err := x.store.dial(o)
	if err != nil {
		return nil, x.refused(err)
	}
	j, err := journal.New(pool, x.store.log)
	if err != nil {
		pool.Close()
		return nil, storage.SystemError(err, "cannot connect to %s", x.Def.Place())
	}
	return &Link{pool, j}, nil
}

// refused tells why there is no connection although a monitor has answered.
func (x *Session) refused(err error) error {
	who := "without authentication"
	if x.options.User != "" {
		who = fmt.Sprintf("as user '%s'", x.options.User)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return verr.New(verr.OperationFailed, "%s does not exist, or cannot be seen %s: %w", x.Def.Place(), who, err).In(verr.FromStorage)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return verr.New(verr.AuthFailed, "%s refuses a connection %s: the user or its key is wrong: %w", x.Def.Place(), who, err).In(verr.FromStorage)
	case errors.Is(err, unix.ETIMEDOUT):
		return verr.New(verr.OperationTimeout, "%s gave no connection %s in time; its monitors have no quorum, or the key is wrong: %w",
			x.Def.Place(), who, err).In(verr.FromStorage)
	}
	return storage.Failed("cannot connect to %s %s: %w", x.Def.Place(), who, err)
}

// Broken notes an error of a call. After those that say that the connection is of no more use, or may be, the next call makes another one.
func (x *Session) Broken(err error) {
	if !errors.Is(err, unix.ESHUTDOWN) && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ETIMEDOUT) {
		return
	}
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	if x.store.all[x.uuid] == x {
		x.store.retire(x.uuid)
	}
}
