package lockserver

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

// Saver is a session that has something to remember while the program is replaced.
type Saver interface {
	// Save returns what virtlockd would keep of the client, and what only we do. No call is under way.
	Save() (lockstate.Private, json.RawMessage, error)
}

var _ Saver = (*session)(nil)

// sessionState is what only we keep of a client.
type sessionState struct {
	// Start tells the owner's process from a later one with its number.
	Start uint64 `json:"start,omitempty"`
	// Watch says that the client is to be told of changes.
	Watch bool `json:"watch,omitempty"`
}

// Save implements Saver.
func (c *session) Save() (lockstate.Private, json.RawMessage, error) {
	o := &c.classic.owner
	private := lockstate.Private{
		Restricted: c.classic.restricted, OwnerPID: int64(o.Process.PID), OwnerID: o.ID, OwnerName: o.Name, OwnerUUID: o.UUID.String(),
	}
	state := sessionState{Start: o.Process.StartTime, Watch: c.watch.on()}
	if state == (sessionState{}) {
		return private, nil, nil
	}
	text, err := json.Marshal(state)
	return private, text, err
}

// Adopt takes over a connection from a predecessor, before the hub runs. After an error its descriptors are still the caller's.
func (s *Server) Adopt(f hub.FrozenClient, private lockstate.Private, own json.RawMessage) error {
	var state sessionState
	if len(own) > 0 {
		if err := json.Unmarshal(own, &state); err != nil {
			return fmt.Errorf("take over client %d: %w", f.ID, err)
		}
	}
	c := &session{server: s}
	c.classic = classic{server: s, restricted: private.Restricted, registered: private.OwnerID != 0}
	if c.classic.registered {
		id, err := uuid.Parse(private.OwnerUUID)
		if err != nil {
			return fmt.Errorf("take over client %d: owner's uuid: %w", f.ID, err)
		}
		c.classic.owner = leases.Owner{
			UUID: id, Name: private.OwnerName, ID: private.OwnerID, Classic: true,
			Process: process.ID{PID: int32(private.OwnerPID), StartTime: state.Start},
		}
		if state.Start == 0 {
			c.classic.owner.Process = processOf(private.OwnerPID)
		}
	}
	f.Session = c
	client, err := s.service.Adopt(f)
	if err != nil {
		return err
	}
	c.client = client
	c.classic.pid = client.Peer().Pid
	if state.Watch {
		c.watch.begin(c, true)
		client.Pull()
	}
	return nil
}

// processOf names the process that has a number now. One that has ended has no start time, so that nothing is had for it any more.
func processOf(pid int64) process.ID {
	id := process.ID{PID: int32(pid)}
	if found, err := process.Find(id.PID); err == nil {
		return found
	}
	return id
}
