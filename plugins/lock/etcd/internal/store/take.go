package store

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Want is one lock to be had.
type Want struct {
	// ID and Resource are the same thing.
	ID       record.ID
	Resource *lockv1.Resource
	// Value is who wants it; Since is when it is written.
	Value record.Holder
	// Resume has the lock taken only if Epoch is still the resource's.
	Resume bool
	Epoch  int64
}

// Lock is what became of a Want.
type Lock struct {
	// Held says that it is had; Taken says that it was not before.
	Held, Taken bool
	// Token ascends with each new holder: the revision at which the lock's key was made.
	Token int64
	// Epoch is the revision of the record of the last holder; 0 if there is none.
	Epoch int64
	// Since is when it was taken.
	Since time.Time
	// Holder is who has it otherwise, in a sentence.
	Holder string
}

// seen is what there is of a want's resource.
type seen struct {
	// own is the key of the one who wants it, if there is one.
	own *mvccpb.KeyValue
	// other is in the way.
	other *mvccpb.KeyValue
	last  *mvccpb.KeyValue
	// shares says that the last holder was one of those that share; was that it was the one who wants it.
	shares, was bool
}

// Take takes locks, in one transaction: all of them or none, with verr.ResourceBusy if somebody else has one; or, if all is false,
// those that can be had. What the same life has already is kept, bound to this session's lease, and told anew. At most MaxResources,
// each of them once.
func (s *Store) Take(ctx context.Context, sess Session, wants []Want, all bool) ([]Lock, error) {
	for range maxConflicts {
		found, err := s.look(ctx, wants)
		if err != nil {
			return nil, err
		}
		locks, p, err := s.plan(sess, wants, found, all)
		if err != nil || len(p.then) == 0 {
			return locks, err
		}
		done, revision, err := s.apply(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("take locks: %w", err)
		}
		if !done {
			continue
		}
		for _, i := range p.taken {
			locks[i].Token = revision
			if p.newEpoch[i] {
				locks[i].Epoch = revision
			}
		}
		return locks, nil
	}
	return nil, fmt.Errorf("take locks: somebody else was faster %d times", maxConflicts)
}

// look reads what there is.
func (s *Store) look(ctx context.Context, wants []Want) ([]seen, error) {
	// An own key sorts first among holders that do not share; of the others only one needs to be seen.
	const few = 2
	var ops []clientv3.Op
	for _, w := range wants {
		if w.Value.Shared {
			ops = append(ops, clientv3.OpGet(s.keys.Shared(w.ID, s.id.Instance, w.Value.Life())), clientv3.OpGet(s.keys.Exclusive(w.ID)))
		} else {
			ops = append(ops, clientv3.OpGet(s.keys.Holders(w.ID), clientv3.WithPrefix(), clientv3.WithLimit(few)))
		}
		ops = append(ops, clientv3.OpGet(s.keys.Last(w.ID)))
	}
	answers, err := s.get(ctx, ops)
	if err != nil {
		return nil, err
	}
	found := make([]seen, len(wants))
	next := func() []*mvccpb.KeyValue {
		kvs := answers[0].GetKvs()
		answers = answers[1:]
		return kvs
	}
	for i, w := range wants {
		holders := next()
		if w.Value.Shared {
			holders = append(holders, next()...)
		}
		for _, kv := range holders {
			if s.isOwn(kv, w.ID, w.Value.Shared, w.Value.Life()) {
				found[i].own = kv
			} else if found[i].other == nil {
				found[i].other = kv
			}
		}
		for _, kv := range next() {
			found[i].last = kv
			last, err := record.Decode[record.Last](kv.GetValue())
			found[i].shares = err == nil && last.Shared
			found[i].was = err == nil && !last.Shared && last.Life() == w.Value.Life() && last.Instance == s.id.Instance
		}
	}
	return found, nil
}

// isOwn says whether a key is that of a life on this host.
func (s *Store) isOwn(kv *mvccpb.KeyValue, id record.ID, shared bool, l record.Life) bool {
	if string(kv.GetKey()) != s.keys.Holder(id, shared, s.id.Instance, l) {
		return false
	}
	h, err := record.Decode[record.Holder](kv.GetValue())
	return err == nil && h.Life() == l && h.Instance == s.id.Instance
}

// change is a transaction to be made.
type change struct {
	fence int64
	when  []clientv3.Cmp
	then  []clientv3.Op
	// taken are the wants that it takes, and newEpoch those that it gives a new epoch.
	taken    []int
	newEpoch map[int]bool
}

// apply makes a transaction; done says whether it was applied, and false that somebody else was faster.
func (s *Store) apply(ctx context.Context, p change) (done bool, revision int64, err error) {
	host := s.keys.Host(s.id.Instance)
	when := append([]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(host), "=", p.fence)}, p.when...)
	resp, err := s.txn(ctx, when, p.then, []clientv3.Op{clientv3.OpGet(host, clientv3.WithKeysOnly())})
	if err != nil {
		return false, 0, err
	}
	if resp.Succeeded {
		return true, resp.Header.GetRevision(), nil
	}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	switch {
	case len(kvs) == 0:
		return false, 0, ErrNoHost
	case kvs[0].GetModRevision() != p.fence:
		return false, 0, ErrFenced
	}
	return false, 0, nil
}

// plan decides what is to be done about each want, and refuses what cannot be had.
func (s *Store) plan(sess Session, wants []Want, found []seen, all bool) ([]Lock, change, error) {
	locks := make([]Lock, len(wants))
	p := change{fence: sess.Fence, newEpoch: map[int]bool{}}
	now := time.Now().UTC()
	for i, w := range wants {
		f := found[i]
		switch {
		case f.own != nil:
			locks[i] = s.keep(sess, w, f, &p)
		case f.other != nil:
			locks[i].Holder = s.tell(f.other)
			if all {
				return nil, p, verr.New(verr.ResourceBusy, "%s is in use by %s", record.Title(w.Resource), locks[i].Holder)
			}
		case w.Resume && (w.Epoch == 0 || f.last.GetModRevision() != w.Epoch):
			if all {
				return nil, p, verr.New(verr.OperationInvalid, "%s may have been changed since guest %q was suspended%s: it must be started anew",
					record.Title(w.Resource), record.Show(w.Value.Name), tellLast(f.last))
			}
			locks[i].Holder = "somebody else may have had it"
		default:
			locks[i] = Lock{Held: true, Taken: true, Since: now, Epoch: f.last.GetModRevision()}
			w.Value.Since = now
			p.taken = append(p.taken, i)
			s.take(sess, i, w, f, &p)
		}
	}
	return locks, p, nil
}

// keep plans to hold on to a key that is there.
func (s *Store) keep(sess Session, w Want, f seen, p *change) Lock {
	key := string(f.own.GetKey())
	lock := Lock{Held: true, Token: f.own.GetCreateRevision(), Epoch: f.last.GetModRevision(), Since: time.Now().UTC()}
	if before, err := record.Decode[record.Holder](f.own.GetValue()); err == nil {
		lock.Since = before.Since
	}
	w.Value.Since = lock.Since
	value := record.Encode(w.Value)
	if string(f.own.GetValue()) == value && f.own.GetLease() == int64(sess.Lease) {
		return lock
	}
	p.when = append(p.when, clientv3.Compare(clientv3.ModRevision(key), "=", f.own.GetModRevision()))
	p.then = append(p.then, clientv3.OpPut(key, value, clientv3.WithLease(sess.Lease)))
	return lock
}

// take plans to make a key, and to have the epoch tell of it.
func (s *Store) take(sess Session, i int, w Want, f seen, p *change) {
	last := s.keys.Last(w.ID)
	key := s.keys.Holder(w.ID, w.Value.Shared, s.id.Instance, w.Value.Life())
	// Who resumes a guest that was suspended on another host begins an epoch: the one that was left behind must not go on.
	sameEpoch := w.Resume && f.was
	if w.Value.Shared {
		sameEpoch = f.shares
		p.when = append(p.when, clientv3.Compare(clientv3.CreateRevision(s.keys.Exclusive(w.ID)), "=", 0))
	} else {
		p.when = append(p.when, clientv3.Compare(clientv3.CreateRevision(s.keys.Holders(w.ID)).WithPrefix(), "=", 0))
	}
	if w.Resume || w.Value.Shared { // what was decided rests on the record
		p.when = append(p.when, clientv3.Compare(clientv3.ModRevision(last), "=", f.last.GetModRevision()))
	}
	p.then = append(p.then, clientv3.OpPut(key, record.Encode(w.Value), clientv3.WithLease(sess.Lease)))
	if !sameEpoch {
		p.newEpoch[i] = true
		p.then = append(p.then, clientv3.OpPut(last, record.Encode(record.Last{
			Owner: w.Value.Owner, Generation: w.Value.Generation, Name: w.Value.Name,
			Host: w.Value.Host, Instance: w.Value.Instance, Since: w.Value.Since, Shared: w.Value.Shared,
		})))
	}
}

// tell names a holder in a sentence, whatever it has written about itself.
func (s *Store) tell(kv *mvccpb.KeyValue) string {
	h, err := record.Decode[record.Holder](kv.GetValue())
	if err != nil || h.Owner == "" {
		return fmt.Sprintf("somebody whose record is not to be read (etcd key %q)", record.Show(string(kv.GetKey())))
	}
	return h.String()
}

// tellLast names a last holder, if one is known.
func tellLast(kv *mvccpb.KeyValue) string {
	last, err := record.Decode[record.Last](kv.GetValue())
	if kv == nil || err != nil || last.Name == "" {
		return ""
	}
	return fmt.Sprintf(": guest %q on host %q got it at %s", record.Show(last.Name), record.Show(last.Host), last.Since.UTC().Format(time.RFC3339))
}
