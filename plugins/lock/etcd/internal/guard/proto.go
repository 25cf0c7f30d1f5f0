package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
)

const (
	// Version of what plugin and guard say to each other; a guard that speaks another one is replaced.
	Version = 1
	// maxLine is the longest message, in bytes.
	maxLine = 1 << 20
	// maxBatch is how many guests one message may have.
	maxBatch = 128
)

// Guest is one life of a guest that has locks.
type Guest struct {
	record.Life
	// Name of the guest, for people.
	Name string
	// PID and StartTime are its process, or 0 where there is none on this machine, or not yet.
	PID       int32
	StartTime uint64
	// Spare has the guest live on without its locks.
	Spare bool
	// Lost is when it must have ended because it has lost a lock, however long the lease lives; 0 if it has not.
	Lost boot.Time
}

// Hello is what the guard needs to know.
type Hello struct {
	// Version of the protocol.
	Version int
	// Page is the page's Ident.
	Page string
	// Config and Identity are for renewing the lease when no plugin does.
	Config   *config.Config
	Identity store.Identity
}

// Ended tells of a guest whose process is gone, so that it is guarded no more.
type Ended struct {
	Guest
	// Why the guard has ended it, in a sentence; empty if it ended by itself.
	Why string
}

// request is one line to the guard.
type request struct {
	// Hello is sent first.
	Hello *Hello `json:",omitempty"`
	// Begin says that all guests follow, and End that they have been told: those that were not named in between are forgotten. An
	// earlier plugin may have been killed before it could say that a guest has no locks any more.
	Begin, End bool `json:",omitempty"`
	// Set adds guests, or replaces what is known of them.
	Set []Guest `json:",omitempty"`
	// Drop forgets guests.
	Drop []record.Life `json:",omitempty"`
}

// response is one line from it.
type response struct {
	// Error says why the request was not followed.
	Error string `json:",omitempty"`
	// Version of the guard.
	Version int
	// Guests is how many it knows.
	Guests int
	// Ended are those that have ended since it was last asked, at most maxBatch at once.
	Ended []Ended `json:",omitempty"`
}

// errTooLong says that a line is longer than maxLine.
var errTooLong = errors.New("message is too long")

// newReader makes a reader for readLine.
func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxLine) }

// readLine reads a message.
func readLine[T request | response](r *bufio.Reader) (*T, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errTooLong
	}
	if err != nil {
		return nil, err
	}
	m := new(T)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return m, nil
}

// writeLine writes a message.
func writeLine[T request | response](w io.Writer, m T) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(line) >= maxLine {
		return errTooLong
	}
	_, err = w.Write(append(line, '\n'))
	return err
}
