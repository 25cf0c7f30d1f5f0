package door

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxPiece is how much of a volume goes to its driver at once, in bytes.
const maxPiece = 256 << 10

// sparse is a stream's device that knows holes.
type sparse interface {
	// piece returns the next bytes, or the length of a hole after them; io.EOF at the end.
	piece() (data []byte, hole uint64, err error)
	// hole makes bytes read as zeros where the last write ended.
	hole(length uint64) error
}

// finisher is a stream's device that must be told that the client has sent everything.
type finisher interface {
	// finish returns when all of it is where it shall be.
	finish() error
}

var (
	_ sparse   = (*download)(nil)
	_ sparse   = (*upload)(nil)
	_ finisher = (*upload)(nil)
)

// errOneWay says that a client sends into a stream that only reads, or the other way round.
var errOneWay = errors.New("the stream goes the other way")

// download is a volume that a client reads.
type download struct {
	from   *pool.Download
	sparse bool
	rest   []byte
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		data, hole, err := d.from.Next()
		if err != nil {
			return 0, err
		}
		if d.rest = data; hole > 0 {
			return 0, verr.New(verr.Internal, "driver tells a hole of %d bytes to who wants none", hole)
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *download) piece() ([]byte, uint64, error) { return d.from.Next() }

func (d *download) hole(uint64) error { return errOneWay }

// Write implements io.Writer.
func (d *download) Write([]byte) (int, error) { return 0, errOneWay }

// Close implements io.Closer.
func (d *download) Close() error {
	d.from.Close()
	return nil
}

// upload is a volume that a client writes.
type upload struct {
	to     *pool.Upload
	sparse bool
	// closed ends Read, which has nothing to say.
	closed context.Context
	close  context.CancelFunc
}

func newUpload(to *pool.Upload, sparse bool) *upload {
	u := &upload{to: to, sparse: sparse}
	u.closed, u.close = context.WithCancel(context.Background())
	return u
}

// Read implements io.Reader: it waits for the end.
func (u *upload) Read([]byte) (int, error) {
	<-u.closed.Done()
	return 0, errStreamEnded
}

func (u *upload) piece() ([]byte, uint64, error) {
	<-u.closed.Done()
	return nil, 0, errStreamEnded
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), maxPiece)
		if err := u.to.Write(p[:n]); err != nil {
			return written, err
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}

func (u *upload) hole(length uint64) error {
	if !u.sparse {
		return errHole
	}
	return u.to.Hole(length)
}

func (u *upload) finish() error { return u.to.Finish(u.closed) }

// Close implements io.Closer.
func (u *upload) Close() error {
	u.close()
	u.to.Abort()
	return nil
}
