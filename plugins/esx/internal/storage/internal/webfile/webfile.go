// Package webfile reads and writes files of datastores through the HTTP access that hosts and vCenter servers give to them under /folder.
//
// Content streams: no more than a piece of it is in memory. A transfer ends with the context of the call that moves it, and when the
// endpoint takes or gives nothing for Access.Stall. A broken transfer is not taken up again, and the session that had it is proven before its
// next use. A Reader and a Writer belong to one goroutine each.
//
// Paths must have been checked by package dspath; whatever they hold is escaped.
package webfile

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Access is the way to the files of one datastore.
type Access struct {
	// Endpoint is where it is.
	Endpoint *endpoint.Endpoint
	// Datacenter is the inventory path of the datacenter, Datastore the name in it.
	Datacenter, Datastore string
	// Stall is how long the endpoint may take for the next bytes, 0 for 1 minute.
	Stall time.Duration
}

// errStalled is a transfer in which nothing moves.
var errStalled = errors.New("nothing has moved")

// url is where a file is found.
func (a Access) url(s *endpoint.Session, file string) *url.URL {
	u := *s.Client.URL()
	u.User = nil
	u.Path = "/folder/" + file
	u.RawPath = ""
	u.RawQuery = url.Values{"dcPath": {a.Datacenter}, "dsName": {a.Datastore}}.Encode()
	return &u
}

// status is the error of an answer that is none of those that are wanted.
func (a Access) status(res *http.Response, file string) error {
	path := "[" + a.Datastore + "] " + file
	switch res.StatusCode {
	case http.StatusNotFound:
		return verr.New(verr.NoStorageVol, "there is no file '%s'", path).In(verr.FromStorage)
	case http.StatusForbidden:
		return verr.New(verr.AccessDenied, "the endpoint does not give access to '%s'", path).In(verr.FromStorage)
	}
	return verr.New(verr.OperationFailed, "the endpoint answers with status %s for '%s'", res.Status, path).In(verr.FromStorage)
}

// transfer is what reading and writing have in common: a request that can be ended from outside.
type transfer struct {
	access  Access
	session *endpoint.Session
	ctx     context.Context
	cancel  context.CancelCauseFunc
	leave   func()
}

// begin makes a transfer that lives until end is called.
func (a Access) begin(ctx context.Context) (*transfer, error) {
	s, err := a.Endpoint.Session(ctx)
	if err != nil {
		return nil, err
	}
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	leave, err := a.Endpoint.Enter(func() { cancel(context.Canceled) })
	if err != nil {
		cancel(err)
		return nil, err
	}
	return &transfer{access: a, session: s, ctx: own, cancel: cancel, leave: leave}, nil
}

// end frees what the transfer has. It is called once.
func (t *transfer) end() {
	t.cancel(context.Canceled)
	t.leave()
}

// move runs a step, which ends when the caller's context does or when it takes longer than it may.
func (t *transfer) move(ctx context.Context, step func() error) error {
	stall := t.access.Stall
	if stall <= 0 {
		stall = time.Minute
	}
	timer := time.AfterFunc(stall, func() { t.cancel(fmt.Errorf("%w for %s: %w", errStalled, stall, context.DeadlineExceeded)) })
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { t.cancel(ctx.Err()) })()
	return step()
}

// failed explains an error of a step.
func (t *transfer) failed(err error, what, file string) error {
	if cause := context.Cause(t.ctx); cause != nil {
		err = cause
	}
	told := t.access.Endpoint.Report(t.session, err)
	return verr.New(verr.From(told).Code, "%s '[%s] %s': %w", what, t.access.Datastore, file, told).In(verr.FromStorage)
}
