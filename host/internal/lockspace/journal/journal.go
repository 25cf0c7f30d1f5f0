// Package journal remembers which leases there are, so that a lock daemon that was killed finds them again.
//
// It is a file in memory: Append copies a record with its length and checksum into a mapping of the file, without a system call, and what
// is copied is the kernel's, which makes it durable against SIGKILL of the daemon; the file lies in a run directory and is not
// meant to survive the machine. Its space is allocated beforehand, so that a full disk is an error of Append and nothing else.
// A record is there as a whole or not at all. One that is damaged is skipped and reported, and every record before and after it
// counts: losing a release keeps a lease that has to be released again, losing an acquire leaves the lock to the guest's own
// descriptor.
//
// A file that is there is gone on with as it is, so that a full disk keeps nobody from opening it: only a record that needs more space
// than the file has is refused until there is some. The file is written anew, in its shortest form and by rename, whenever it has
// grown well beyond what it says, and if it can be when it was damaged or is another boot's. An error from Append means that nothing was recorded. All methods are safe concurrently. One process at a time may have a
// journal open; its owner sees to that.
package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// chunk is how much space is allocated at once, in bytes, at least.
	chunk = 256 << 10
	// slack is how many bytes more than twice the shortest form are kept before the file is written anew.
	slack = 256 << 10
	// maxSize bounds what is read of a file, in bytes.
	maxSize = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBroken says that the file can no longer be written; the journal takes no more records.
var ErrBroken = errors.New("journal is broken")

var errTooLong = errors.New("record is too long")

// Journal is an open journal.
type Journal struct {
	path string
	boot string

	mu sync.Mutex
	store
	// base is how much of the file was used when it was last written anew.
	base   int
	buf    []byte
	broken bool
	// unbooted says that the file does not name the boot yet; the next record comes with it.
	unbooted bool
}

// store is a file that is mapped into memory.
type store struct {
	file *os.File
	data []byte
	salt uint64
	used int
}

// Open reads the journal at path, or starts one, for a boot of the machine. It returns what the journal said, with the boot that it
// was written in, and how many places were damaged.
func Open(path, boot string) (j *Journal, found State, damaged int, err error) {
	j = &Journal{path: path, boot: boot}
	if found, damaged, err = j.open(); err != nil {
		return nil, State{}, 0, fmt.Errorf("open journal %q: %w", path, err)
	}
	return j, found, damaged, nil
}

func (j *Journal) open() (found State, damaged int, err error) {
	text, err := load(j.path)
	if err != nil {
		return State{}, 0, err
	}
	found, damaged = read(text)
	// A writer that was killed may have left a part of the next file.
	if err := os.Remove(j.path + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return State{}, 0, err
	}
	if isFramed(text) {
		if err := j.store.reuse(j.path, text); err != nil {
			return State{}, 0, err
		}
	}
	j.unbooted = found.Boot != j.boot
	if j.data != nil && damaged == 0 && !j.unbooted {
		return found, damaged, nil
	}
	now := found
	now.Boot = j.boot
	// What is there stays good if it cannot be written anew.
	if err := j.replace(func(salt uint64) []byte { return now.dump(salt) }); err != nil && j.data == nil {
		return State{}, 0, err
	}
	return found, damaged, nil
}

// load reads a file of either form. A missing one is empty.
func load(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSize {
		return nil, fmt.Errorf("file has %d bytes, over %d: remove it to start without leases", st.Size(), maxSize)
	}
	return os.ReadFile(path)
}

// isFramed reports whether a file is of the form that is written now.
func isFramed(text []byte) bool { return len(text) >= headSize && string(text[:len(magic)]) == magic }

// saltOf returns the salt of a file that is framed.
func saltOf(text []byte) uint64 { return binary.NativeEndian.Uint64(text[len(magic):headSize]) }

// read folds all sound records.
func read(text []byte) (State, int) {
	if !isFramed(text) {
		return readLines(text)
	}
	state, unread := newState(), 0
	damaged, _ := frames(text[headSize:], saltOf(text), func(content []byte) {
		c := cursor{rest: content}
		for len(c.rest) > 0 {
			rec, err := c.record()
			if err != nil {
				unread++
				return
			}
			state.apply(rec)
		}
	})
	return state, damaged + unread
}

// Append records something. On an error nothing was recorded.
func (j *Journal) Append(rec Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(&rec); err != nil {
		return fmt.Errorf("append to journal %q: %w", j.path, err)
	}
	return nil
}

func (j *Journal) append(rec *Record) error {
	if j.broken || j.data == nil {
		return ErrBroken
	}
	j.buf = j.buf[:0]
	if j.unbooted {
		j.buf = appendRecord(j.buf, &Record{Op: Boot, Boot: j.boot})
	}
	j.buf = appendRecord(j.buf, rec)
	if len(j.buf) == 0 {
		return nil
	}
	if len(j.buf) > maxFrame {
		j.buf = nil
		return errTooLong
	}
	size := frameSize(len(j.buf))
	if j.used+size > len(j.data) {
		if err := j.makeRoom(size); err != nil {
			return err
		}
	}
	if err := j.put(size); err != nil {
		j.broken = true
		return err
	}
	j.unbooted = false
	if cap(j.buf) > chunk {
		j.buf = nil
	}
	return nil
}

// put writes the frame in buf. The mapping may fail where allocation is no promise, as on file systems that copy on write.
func (j *Journal) put(size int) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write to memory: %v: %w", p, ErrBroken)
		}
	}()
	putFrame(j.data[j.used:j.used+size], j.salt, j.buf)
	j.used += size
	return nil
}

// makeRoom makes room for a frame: by leaving out what does not count any more, or else with more space.
func (j *Journal) makeRoom(size int) error {
	if j.used > 2*j.base+slack {
		if err := j.replace(j.shortest); err == nil && j.used+size <= len(j.data) {
			return nil
		}
		// The long form stays good if the short one cannot be written.
	}
	return j.grow(size)
}

// grow allocates more space at the end of the file.
func (j *Journal) grow(size int) error {
	total := len(j.data) + max(chunk, size, j.used/4)&^(frameHead-1) + frameHead
	if err := allocate(j.file, len(j.data), total); err != nil {
		return err
	}
	data, err := mapped(j.file, total)
	if err != nil {
		return err
	}
	old := j.data
	j.data = data
	return unix.Munmap(old)
}

// replace writes the file anew with what form returns for a salt.
func (j *Journal) replace(form func(salt uint64) []byte) error {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return err
	}
	next := store{salt: binary.NativeEndian.Uint64(salt[:])}
	content := form(next.salt)
	next.used = len(content)
	if err := next.create(j.path+".new", content); err != nil {
		return err
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return errors.Join(err, next.close(), os.Remove(j.path+".new"))
	}
	old := j.store
	j.store, j.base, j.unbooted = next, next.used, false
	return old.close()
}

// create makes the file.
func (s *store) create(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	s.file = file
	total := (len(content)+chunk)&^(chunk-1) + chunk
	if err = allocate(file, 0, total); err == nil {
		_, err = file.WriteAt(content, 0)
	}
	if err == nil {
		s.data, err = mapped(file, total)
	}
	if err != nil {
		return errors.Join(err, s.close(), os.Remove(path))
	}
	return nil
}

// reuse opens a framed file, to write behind what is there.
func (s *store) reuse(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.file, s.salt = file, saltOf(text)
	_, used := frames(text[headSize:], s.salt, func([]byte) {})
	s.used = headSize + used
	total := max(s.used, (len(text)+frameHead-1)&^(frameHead-1))
	if allocate(file, s.used, total) != nil {
		// A copy of a journal may have holes, which are no room.
		total = s.used
	}
	if s.data, err = mapped(file, total); err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

// close lets go of a file. It may be called for one that was never made.
func (s *store) close() error {
	var err error
	if s.data != nil {
		err = unix.Munmap(s.data)
		s.data = nil
	}
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
	}
	return err
}

// allocate makes sure that a part of a file has space on the disk.
func allocate(file *os.File, from, to int) error {
	err := unix.Fallocate(int(file.Fd()), 0, int64(from), int64(to-from))
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	_, err = file.WriteAt(make([]byte, to-from), int64(from))
	return err
}

func mapped(file *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// shortest returns the journal's shortest form.
func (j *Journal) shortest(salt uint64) []byte {
	d := newDigest(j.boot)
	frames(j.data[headSize:j.used], j.salt, d.add)
	return d.dump(salt)
}

// Close closes the file and keeps it for the next Open.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.store.close(); err != nil {
		return fmt.Errorf("close journal %q: %w", j.path, err)
	}
	return nil
}
