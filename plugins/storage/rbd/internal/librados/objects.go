//go:build cgo && pacific

package librados

import (
	"errors"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
)

const (
	// pageSize is how many values are read at once.
	pageSize = 4096
	// mayRenew is LOCK_FLAG_RENEW of rados(3).
	mayRenew = 1
)

// Read implements ceph.Objects.
func (p *pool) Read(object string, limit int) ([]byte, error) {
	data := make([]byte, limit)
	n, err := p.io.Read(object, data, 0)
	return data[:max(0, n)], mend(err)
}

// Delete implements ceph.Objects.
func (p *pool) Delete(object string) error { return mend(p.io.Delete(object)) }

// Values implements ceph.Objects.
func (p *pool) Values(object string, keys ...string) (map[string][]byte, error) {
	op := rados.CreateReadOp()
	defer op.Release()
	op.AssertExists()
	step := op.GetOmapValuesByKeys(keys)
	if err := op.Operate(p.io, object, rados.OperationNoFlag); err != nil {
		var parts rados.OperationError
		if errors.As(err, &parts) && parts.OpError != nil {
			err = parts.OpError
		}
		return nil, mend(err)
	}
	values := map[string][]byte{}
	for {
		kv, err := step.Next()
		if kv == nil || err != nil {
			return values, mend(err)
		}
		values[kv.Key] = kv.Value
	}
}

// AllValues implements ceph.Objects.
func (p *pool) AllValues(object, prefix string) (map[string][]byte, error) {
	values, err := p.io.GetAllOmapValues(object, "", prefix, pageSize)
	if err = mend(err); errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return values, err
}

// SetValues implements ceph.Objects.
func (p *pool) SetValues(object string, values map[string][]byte) error {
	return mend(p.io.SetOmap(object, values))
}

// RemoveValues implements ceph.Objects.
func (p *pool) RemoveValues(object string, keys ...string) error {
	return mend(p.io.RmOmapKeys(object, keys))
}

// number is an error of a call that returns one as a number beside its error.
func number(ret int, err error) error {
	if ret < 0 {
		return unix.Errno(-ret)
	}
	return mend(err)
}

// Lock implements ceph.Locks.
func (p *pool) Lock(object, name, cookie string, d time.Duration) error {
	flags := byte(mayRenew)
	return number(p.io.LockExclusive(object, name, cookie, "", d, &flags))
}

// Unlock implements ceph.Locks.
func (p *pool) Unlock(object, name, cookie string) error {
	return number(p.io.Unlock(object, name, cookie))
}

// Break implements ceph.Locks.
func (p *pool) Break(object, name string, holder ceph.Holder) error {
	return number(p.io.BreakLock(object, name, holder.Client, holder.Cookie))
}

// Holder implements ceph.Locks.
func (p *pool) Holder(object, name string) (*ceph.Holder, error) {
	info, err := p.io.ListLockers(object, name)
	if err = mend(err); errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil || info.NumLockers == 0 {
		return nil, err
	}
	return &ceph.Holder{Client: info.Clients[0], Cookie: info.Cookies[0], Addr: info.Addrs[0]}, nil
}
