package webfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/vmware/govmomi/vim25/soap"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Piece is how much is read at once, in bytes.
const Piece = 256 << 10

// Reader reads a part of a file.
type Reader struct {
	*transfer
	file string
	body io.ReadCloser
	// skip is how much comes before the part, left how much of it is to come; whole says that the part goes to the end of the file.
	skip, left uint64
	buf        []byte
}

// Open begins to read length bytes of a file from an offset; the file must have them. A server that does not know of parts is read from
// the beginning.
func (a Access) Open(ctx context.Context, file string, offset, length uint64) (*Reader, error) {
	t, res, err := a.get(ctx, file, map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)})
	if err != nil {
		return nil, err
	}
	r := &Reader{transfer: t, file: file, body: res.Body, left: length, buf: make([]byte, Piece)}
	if err := r.take(res, offset); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// Whole reads a file that has no more than most bytes.
func (a Access) Whole(ctx context.Context, file string, most int64) ([]byte, error) {
	t, res, err := a.get(ctx, file, nil)
	if err != nil {
		return nil, err
	}
	defer t.end()
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, a.status(res, file)
	}
	var text []byte
	err = t.move(ctx, func() (err error) {
		text, err = io.ReadAll(io.LimitReader(res.Body, most+1))
		return err
	})
	switch {
	case err != nil:
		return nil, t.failed(err, "read", file)
	case int64(len(text)) > most:
		return nil, verr.New(verr.OperationFailed, "file '[%s] %s' has more than the %d bytes that it should", a.Datastore, file, most).In(verr.FromStorage)
	}
	return text, nil
}

// get asks for a file, once more if the session turns out to be over. The caller ends the transfer and closes the body.
func (a Access) get(ctx context.Context, file string, headers map[string]string) (*transfer, *http.Response, error) {
	t, res, err := a.request(ctx, file, headers)
	if err == nil && res.StatusCode == http.StatusUnauthorized {
		_ = res.Body.Close()
		_ = t.failed(errors.New(res.Status), "read", file) // has the session proven
		t.end()
		t, res, err = a.request(ctx, file, headers)
	}
	return t, res, err
}

func (a Access) request(ctx context.Context, file string, headers map[string]string) (*transfer, *http.Response, error) {
	t, err := a.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	var res *http.Response
	err = t.move(ctx, func() (err error) {
		res, err = t.session.Client.DownloadRequest(t.ctx, a.url(t.session, file), &soap.Download{Method: http.MethodGet, Headers: headers})
		return err
	})
	if err != nil {
		err = t.failed(err, "read", file)
		t.end()
		return nil, nil, err
	}
	return t, res, nil
}

// take looks at what is answered.
func (r *Reader) take(res *http.Response, offset uint64) error {
	switch res.StatusCode {
	case http.StatusOK:
		r.skip = offset
	case http.StatusPartialContent:
		var first uint64
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != offset {
			return verr.New(verr.OperationFailed, "read '%s' from %d: the endpoint sends the part %q",
				r.file, offset, res.Header.Get("Content-Range")).In(verr.FromStorage)
		}
	default:
		return r.access.status(res, r.file)
	}
	return nil
}

// Next returns the next bytes, at most Piece and good until the next call; io.EOF after the last. A file that ends early is an error.
func (r *Reader) Next(ctx context.Context) ([]byte, error) {
	for r.skip > 0 {
		n, err := r.read(ctx, min(r.skip, Piece))
		if err != nil {
			return nil, err
		}
		r.skip -= uint64(n)
	}
	if r.left == 0 {
		return nil, io.EOF
	}
	n, err := r.read(ctx, min(r.left, Piece))
	r.left -= uint64(n)
	return r.buf[:n], err
}

// read fills the buffer with n bytes.
func (r *Reader) read(ctx context.Context, n uint64) (int, error) {
	got := 0
	err := r.move(ctx, func() (err error) {
		got, err = io.ReadFull(r.body, r.buf[:n])
		return err
	})
	if err == nil {
		return got, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, r.failed(err, "read", r.file)
}

// Close ends the reading.
func (r *Reader) Close() error {
	err := r.body.Close()
	r.end()
	return err
}
