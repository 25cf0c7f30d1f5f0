package journal

import (
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// nameLocks is how many locks names share.
	nameLocks = 64
	// nameWait is how long somebody else may take to name an image, and namePause the time between two looks.
	nameWait, namePause = 10 * time.Second, 20 * time.Millisecond
)

// Rename names an image; EEXIST says that there is one of that name. librbd looks whether there is one, and then writes the new name without
// another look, so that of many who give a name at a time several would have it. Here one at a time looks and writes.
func (j *Journal) Rename(from, to string) error {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(to)) // never fails
	lock, cookie := fmt.Sprint("name.", hash.Sum32()%nameLocks), j.self+" "+token()
	if err := j.await(lock, cookie); err != nil {
		return fmt.Errorf("lock name %q: %w", to, err)
	}
	err := j.pool.Rename(from, to)
	if unlockErr := j.pool.Unlock(Object, lock, cookie); unlockErr != nil {
		j.log.Warn("lock of a name stays until it ends by itself", "name", to, "error", unlockErr)
	}
	return err
}

// await takes a lock, and breaks that of a process that has ended.
func (j *Journal) await(lock, cookie string) error {
	for end := time.Now().Add(nameWait); ; time.Sleep(namePause) {
		err := j.pool.Lock(Object, lock, cookie, lockTime)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
		holder, err := j.pool.Holder(Object, lock)
		if err != nil {
			return err
		}
		if holder != nil && ended(holder.Cookie) {
			if err := j.pool.Break(Object, lock, *holder); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
}
