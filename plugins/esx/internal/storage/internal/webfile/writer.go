package webfile

import (
	"cmp"
	"context"
	"io"
	"net/http"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Writer writes a whole file, which replaces one that is there. Until Finish has succeeded the file may have any part of the content.
type Writer struct {
	*transfer
	file string
	pipe *io.PipeWriter
	// answered is closed when the endpoint has answered; outcome is good then.
	answered chan struct{}
	outcome  error
}

// Create begins to write a file of size bytes.
func (a Access) Create(ctx context.Context, file string, size uint64) (*Writer, error) {
	t, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	read, write := io.Pipe()
	var body io.Reader = read
	if size == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(t.ctx, http.MethodPut, a.url(t.session, file).String(), body)
	if err != nil {
		t.end()
		return nil, err
	}
	req.ContentLength = int64(size)
	req.Header.Set("Content-Type", "application/octet-stream")
	w := &Writer{transfer: t, file: file, pipe: write, answered: make(chan struct{})}
	go func() {
		defer close(w.answered)
		w.outcome = t.session.Client.Do(t.ctx, req, func(res *http.Response) error {
			switch {
			case res.StatusCode/100 == 2:
				return nil
			case res.StatusCode == http.StatusNotFound: // the file need not be there
				return verr.New(verr.NoStoragePool, "there is no datastore '%s', or no such folder in it", a.Datastore).In(verr.FromStorage)
			}
			return a.status(res, file)
		})
		_ = read.Close()
	}()
	return w, nil
}

// Write writes bytes where the last write ended.
func (w *Writer) Write(ctx context.Context, data []byte) error {
	err := w.move(ctx, func() error {
		_, err := w.pipe.Write(data)
		if err != nil { // the answer says why nothing is taken any more
			<-w.answered
			err = cmp.Or[error](w.outcome, errEarly)
		}
		return err
	})
	if err != nil {
		return w.failed(err, "write", w.file)
	}
	return nil
}

// errEarly is an answer that nobody could give by then.
var errEarly = verr.New(verr.OperationFailed, "the endpoint has answered before it had everything")

// Finish is called when all bytes were written, and waits until the endpoint has them. It ends the writer.
func (w *Writer) Finish(ctx context.Context) error {
	defer w.end()
	_ = w.pipe.Close()
	err := w.move(ctx, func() error {
		<-w.answered
		return w.outcome
	})
	if err != nil {
		return w.failed(err, "write", w.file)
	}
	return nil
}

// Abort is called in the place of Finish, and leaves a part of the file.
func (w *Writer) Abort() {
	w.cancel(context.Canceled)
	_ = w.pipe.CloseWithError(context.Canceled)
	<-w.answered
	w.end()
}
