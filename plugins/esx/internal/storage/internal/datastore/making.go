package datastore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// leftover is how old the name of something that is being made must be for a refresh to remove it.
	leftover = 24 * time.Hour
	// cleanup bounds the removal of what was not made whole.
	cleanup = 30 * time.Second
)

// making is a file that becomes a volume.
type making struct {
	pool *Pool
	// work is its name while it is made.
	work string
}

// begin finds a hidden name beside a volume. It has the time, and the end that hosts know files of the kind by.
func (p *Pool) begin(name string) *making {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	folder, base := dspath.Split(name)
	work := fmt.Sprintf("%s%x-%s%s", hidden, time.Now().Unix(), hex.EncodeToString(id[:]), path.Ext(base))
	return &making{pool: p, work: dspath.Child(folder, work)}
}

// undo removes what was made and adds to the error what could not be removed.
func (m *making) undo(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	if left := m.pool.remove(ctx, m.work); left != nil && !verr.Is(left, verr.NoStorageVol) {
		e := verr.From(err)
		return verr.New(e.Code, "%w; '%s' may be left of it: %s", err, m.pool.path(m.work), left.Error()).In(verr.FromStorage)
	}
	return err
}

// age is how old a name of something that is being made is.
func age(name string) (time.Duration, bool) {
	rest, ok := strings.CutPrefix(path.Base(name), hidden)
	stamp, _, _ := strings.Cut(rest, "-")
	seconds, err := strconv.ParseInt(stamp, 16, 64)
	return time.Since(time.Unix(seconds, 0)), ok && err == nil
}

// sweep leaves out what is being made, and removes what nobody makes any more.
func (p *Pool) sweep(ctx context.Context, all []found) []found {
	kept := all[:0]
	for _, f := range all {
		if !isHidden(f.name) {
			kept = append(kept, f)
			continue
		}
		if old, ok := age(f.name); ok && old > leftover {
			err := p.remove(ctx, f.name)
			if err != nil { // an extent that was to be
				err = p.removeFile(ctx, f.name)
			}
			p.place.Log.Info("leftover removed", "datastore", p.name(), "file", f.name, "error", err)
		}
	}
	return kept
}
