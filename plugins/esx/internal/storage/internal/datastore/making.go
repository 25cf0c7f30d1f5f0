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
	// lateTries and latePause are how often and at what intervals a file is looked for that may only now be begun.
	lateTries = 5
	latePause = 200 * time.Millisecond
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

// undo removes something that was made in vain, and adds to the error that it could not be removed. An endpoint that is away is waited for.
func (p *Pool) undo(ctx context.Context, name string, remove func(ctx context.Context, name string) error, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	_, left := p.place.Endpoint.Await(ctx)
	if left == nil {
		left = remove(ctx, name)
	}
	if left == nil || verr.Is(left, verr.NoStorageVol) {
		return err
	}
	return verr.New(verr.From(err).Code, "%w; '%s' may be left of it: %s", err, p.path(name), left.Error()).In(verr.FromStorage)
}

// removeWritten deletes a file whose writing was broken off. An endpoint may only now begin to write what it was sent, so a file that is not
// there is looked for some more times.
func (p *Pool) removeWritten(ctx context.Context, name string) (err error) {
	for range lateTries {
		if err = p.removeFile(ctx, name); !verr.Is(err, verr.NoStorageVol) {
			return err
		}
		select {
		case <-time.After(latePause):
		case <-ctx.Done():
			return err
		}
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
