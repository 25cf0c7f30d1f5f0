package catalog

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// maxGroup is the largest number of changes that share a commit.
const maxGroup = 256

// ErrClosed means that the catalog was closed.
var ErrClosed = errors.New("the catalog is closed")

// Update makes a change and returns when it is on disk. apply may run more than once and must do nothing but use the Tx. An error
// of apply undoes that change alone.
func (c *Catalog) Update(apply func(*Tx) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return ErrClosed
	}
	ch := &change{apply: apply, err: make(chan error, 1)}
	c.changes <- ch
	return <-ch.err
}

// commit is the only writer: it takes all changes that wait and commits them at once.
func (c *Catalog) commit() {
	defer close(c.done)
	for first := range c.changes {
		group := append(make([]*change, 0, maxGroup), first)
	gather:
		for len(group) < maxGroup {
			select {
			case next, ok := <-c.changes:
				if !ok {
					break gather
				}
				group = append(group, next)
			default:
				break gather
			}
		}
		c.write(group)
	}
}

// write commits a group. A change that fails is taken out and told, and the others are written without it.
func (c *Catalog) write(group []*change) {
	for len(group) > 0 {
		failed := -1
		err := c.db.Update(func(tx *bolt.Tx) error {
			for i, ch := range group {
				if err := ch.apply(&Tx{tx}); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
		if failed >= 0 {
			group[failed].err <- err
			group = append(group[:failed], group[failed+1:]...)
			continue
		}
		if err != nil {
			err = fmt.Errorf("write catalog: %w", err)
		}
		for _, ch := range group {
			ch.err <- err
		}
		return
	}
}
