package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxState is the largest state, in bytes; the contract says so too.
const maxState = 64 << 10

// Suspended is what a guest that is suspended takes along: for each of its resources, the revision of the record of the last holder,
// which was the guest. Whoever gets the resource meanwhile changes that record.
type Suspended struct {
	// Version is 1.
	Version int `json:"v"`
	// Epochs are the revisions by Digest of the resource; 0 is one that is not known.
	Epochs map[string]int64 `json:"e"`
}

// Digest is a resource's name in Suspended: as long for each.
func Digest(id ID) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

// Epoch returns the revision for a resource, and whether the guest has had it.
func (s *Suspended) Epoch(id ID) (epoch int64, ok bool) {
	if s == nil {
		return 0, false
	}
	epoch, ok = s.Epochs[Digest(id)]
	return epoch, ok
}

// Encode makes the state.
func (s *Suspended) Encode() ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode state of a guest that is suspended: %w", err)
	}
	return text, nil
}

// ParseSuspended reads a state that Encode made; an empty one is nil.
func ParseSuspended(text []byte) (*Suspended, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxState {
		return nil, verr.New(verr.InvalidArg, "state of a suspended guest has %d bytes, at most %d are expected", len(text), maxState)
	}
	s := &Suspended{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, verr.New(verr.InvalidArg, "state of a suspended guest is not this lock manager's: %w", err)
	}
	if s.Version != 1 {
		return nil, verr.New(verr.InvalidArg, "state of a suspended guest has version %d, this lock manager knows 1", s.Version)
	}
	return s, nil
}
