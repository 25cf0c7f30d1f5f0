package store

import (
	"context"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
)

// Mark names a lock of a life on this host.
type Mark struct {
	ID     record.ID
	Shared bool
	Life   record.Life
	// Remember leaves the record of the last holder, for a guest that is suspended.
	Remember bool
}

// Drop ends locks. What the life does not have is left alone. In between, those of one transaction are gone and those of the next
// are not.
func (s *Store) Drop(ctx context.Context, sess Session, marks []Mark) error {
	for part := range slices.Chunk(marks, MaxResources) {
		if err := s.dropSome(ctx, sess, part); err != nil {
			return fmt.Errorf("release locks: %w", err)
		}
	}
	return nil
}

func (s *Store) dropSome(ctx context.Context, sess Session, marks []Mark) error {
	var ops []clientv3.Op
	for _, m := range marks {
		ops = append(ops, clientv3.OpGet(s.keys.Holder(m.ID, m.Shared, s.id.Instance, m.Life)), clientv3.OpGet(s.keys.Last(m.ID)))
	}
	for range maxConflicts {
		answers, err := s.get(ctx, ops)
		if err != nil {
			return err
		}
		p := change{fence: sess.Fence}
		for i, m := range marks {
			s.dropOne(m, answers[2*i].GetKvs(), answers[2*i+1].GetKvs(), &p)
		}
		if len(p.then) == 0 {
			return nil
		}
		if done, _, err := s.apply(ctx, p); err != nil || done {
			return err
		}
	}
	return fmt.Errorf("somebody else was faster %d times", maxConflicts)
}

// dropOne plans to delete a holder's key, and the record of the last holder if that is this one and will not be asked for.
func (s *Store) dropOne(m Mark, holder, last []*mvccpb.KeyValue, p *change) {
	if len(holder) > 0 && s.isOwn(holder[0], m.ID, m.Shared, m.Life) {
		key := string(holder[0].GetKey())
		p.when = append(p.when, clientv3.Compare(clientv3.ModRevision(key), "=", holder[0].GetModRevision()))
		p.then = append(p.then, clientv3.OpDelete(key))
	}
	if m.Shared || m.Remember || len(last) == 0 {
		return
	}
	if r, err := record.Decode[record.Last](last[0].GetValue()); err == nil && !r.Shared && r.Life() == m.Life && r.Instance == s.id.Instance {
		key := s.keys.Last(m.ID)
		p.when = append(p.when, clientv3.Compare(clientv3.ModRevision(key), "=", last[0].GetModRevision()))
		p.then = append(p.then, clientv3.OpDelete(key))
	}
}

// Seen is what Check finds of a lock.
type Seen struct {
	// Held says that it is there, and bound to the session's lease.
	Held bool
	// Token is as in Lock.
	Token int64
}

// Check looks for locks, without a change.
func (s *Store) Check(ctx context.Context, sess Session, marks []Mark) ([]Seen, error) {
	ops := make([]clientv3.Op, len(marks))
	for i, m := range marks {
		ops[i] = clientv3.OpGet(s.keys.Holder(m.ID, m.Shared, s.id.Instance, m.Life))
	}
	answers, err := s.get(ctx, ops)
	if err != nil {
		return nil, err
	}
	found := make([]Seen, len(marks))
	for i, m := range marks {
		for _, kv := range answers[i].GetKvs() {
			if s.isOwn(kv, m.ID, m.Shared, m.Life) && kv.GetLease() == int64(sess.Lease) {
				found[i] = Seen{Held: true, Token: kv.GetCreateRevision()}
			}
		}
	}
	return found, nil
}

// Entry is one lock of any host.
type Entry struct {
	// Key of the lock.
	Key string
	// Token is as in Lock.
	Token int64
	// Holder is nil where what is written cannot be read.
	Holder *record.Holder
}

// All calls each with every lock of every host, in the order of the keys, a part at a time.
func (s *Store) All(ctx context.Context, each func(Entry) error) error {
	const page = 500
	from, end := s.keys.Prefix, clientv3.GetPrefixRangeEnd(s.keys.Prefix)
	for {
		answers, err := s.get(ctx, []clientv3.Op{clientv3.OpGet(from, clientv3.WithRange(end), clientv3.WithLimit(page))})
		if err != nil {
			return err
		}
		kvs := answers[0].GetKvs()
		for _, kv := range kvs {
			if !s.keys.IsHolder(string(kv.GetKey())) {
				continue
			}
			e := Entry{Key: string(kv.GetKey()), Token: kv.GetCreateRevision()}
			if h, err := record.Decode[record.Holder](kv.GetValue()); err == nil {
				e.Holder = h
			}
			if err := each(e); err != nil {
				return err
			}
		}
		if !answers[0].GetMore() || len(kvs) == 0 {
			return nil
		}
		from = string(kvs[len(kvs)-1].GetKey()) + "\x00"
	}
}
