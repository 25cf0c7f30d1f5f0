// Package journal remembers which leases there are, so that a lock daemon that was killed finds them again.
//
// It is a file of lines, each a CRC-32C in hexadecimal digits, a blank, and one Record as JSON. Append returns once the kernel
// has the line, which is durable against SIGKILL of the daemon; the file lies in a run directory and is not meant to survive
// the machine. A line that is torn or damaged is skipped and reported, and every line before and after it counts: losing a
// release keeps a lease that has to be released again, losing an acquire leaves the lock to the guest's own descriptor.
//
// The file is written anew, in its shortest form and by rename, when it is opened and whenever it has grown well beyond what it
// says. A write that fails is taken back, so that an error from Append means that nothing was recorded. All methods are safe
// concurrently. One process at a time may have a journal open; its owner sees to that.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"sync"
)

const (
	// maxLine bounds one record, in bytes; longer lines are damage.
	maxLine = 8 << 20
	// slack is how many records more than needed are kept before the file is written anew.
	slack = 4096
	// sumLength is the length of the checksum at the start of a line.
	sumLength = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBroken says that a failed write could not be taken back; the journal takes no more records.
var ErrBroken = errors.New("journal is broken")

// Journal is an open journal.
type Journal struct {
	path string

	mu      sync.Mutex
	file    *os.File
	size    int64
	records int
	state   State
	broken  bool
}

// Open reads the journal at path, or starts one, for a boot of the machine. It returns what the journal said, with the boot that it
// was written in, and how many lines were damaged.
func Open(path, boot string) (j *Journal, found State, damaged int, err error) {
	j = &Journal{path: path, state: newState()}
	old, err := os.Open(path)
	switch {
	case err == nil:
		j.state, damaged, err = read(old)
		old.Close()
	case errors.Is(err, os.ErrNotExist):
		err = nil
	}
	if err != nil {
		return nil, State{}, 0, fmt.Errorf("open journal %q: %w", path, err)
	}
	found = j.state.clone()
	j.state.Boot = boot
	if err := j.rewrite(); err != nil {
		return nil, State{}, 0, fmt.Errorf("open journal %q: %w", path, err)
	}
	return j, found, damaged, nil
}

// read folds all sound lines. Its only errors are those of the reader.
func read(r io.Reader) (State, int, error) {
	state, damaged := newState(), 0
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return State{}, 0, err
		}
		if rec, ok := parse(line); ok {
			state.apply(rec)
		} else if len(line) > 0 {
			damaged++
		}
		if err != nil {
			return state, damaged, nil
		}
	}
}

// readLine returns a line with its end, of a line that is too long only as much as shows that.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line) <= maxLine {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// parse returns the record of a whole line whose checksum is right.
func parse(line []byte) (Record, bool) {
	text, whole := bytes.CutSuffix(line, []byte{'\n'})
	if !whole || len(line) > maxLine || len(text) < sumLength+1 || text[sumLength] != ' ' {
		return Record{}, false
	}
	sum, err := strconv.ParseUint(string(text[:sumLength]), 16, 32)
	text = text[sumLength+1:]
	if err != nil || uint32(sum) != crc32.Checksum(text, castagnoli) {
		return Record{}, false
	}
	var rec Record
	err = json.Unmarshal(text, &rec)
	return rec, err == nil
}

// format returns the line of a record.
func format(rec Record) ([]byte, error) {
	text, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	if len(text) > maxLine-sumLength-2 {
		return nil, errors.New("record is too long")
	}
	line := fmt.Appendf(make([]byte, 0, len(text)+sumLength+2), "%08x ", crc32.Checksum(text, castagnoli))
	return append(append(line, text...), '\n'), nil
}

// Append records something. On an error nothing was recorded.
func (j *Journal) Append(rec Record) error {
	line, err := format(rec)
	if err != nil {
		return fmt.Errorf("append to journal %q: %w", j.path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken || j.file == nil {
		return fmt.Errorf("append to journal %q: %w", j.path, ErrBroken)
	}
	if _, err := j.file.Write(line); err != nil {
		// Whatever part was written goes away, or else it would spoil the next line.
		if _, seek := j.file.Seek(j.size, io.SeekStart); seek != nil || j.file.Truncate(j.size) != nil {
			j.broken = true
		}
		return fmt.Errorf("append to journal %q: %w", j.path, err)
	}
	j.size += int64(len(line))
	j.records++
	j.state.apply(rec)
	if j.records > 2*len(j.state.Leases)+slack {
		// The long form stays good if the short one cannot be written, and is tried again after as many records more.
		j.records = 0
		_ = j.rewrite()
	}
	return nil
}

// rewrite replaces the file by its shortest form.
func (j *Journal) rewrite() error {
	next, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	size, records, err := j.dump(next)
	if err == nil {
		err = os.Rename(next.Name(), j.path)
	}
	if err != nil {
		next.Close()
		return errors.Join(err, os.Remove(next.Name()))
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.size, j.records = next, size, records
	return nil
}

func (j *Journal) dump(to *os.File) (size int64, records int, err error) {
	out := bufio.NewWriter(to)
	for _, rec := range j.state.records() {
		line, err := format(rec)
		if err != nil {
			return 0, 0, err
		}
		if _, err := out.Write(line); err != nil {
			return 0, 0, err
		}
		size, records = size+int64(len(line)), records+1
	}
	return size, records, errors.Join(out.Flush(), to.Sync())
}

// Close closes the file and keeps it for the next Open.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	if err != nil {
		return fmt.Errorf("close journal %q: %w", j.path, err)
	}
	return nil
}
