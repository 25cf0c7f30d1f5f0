package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/vmware/govmomi/vim25"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// statusError is an answer of HTTP's that is no success.
type statusError int

// Error names the status.
func (s statusError) Error() string {
	return fmt.Sprintf("HTTP status %d %s", int(s), http.StatusText(int(s)))
}

// Fetch reads what an address of the endpoint has beside its API, at most so many bytes. It shows the session, and the password to an
// endpoint that asks for it.
func (e *Endpoint) Fetch(ctx context.Context, path string, query url.Values, limit int64) (kind string, data []byte, err error) {
	err = e.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		kind, data, err = e.fetch(ctx, client, path, query, limit, false)
		if errors.Is(err, statusError(http.StatusUnauthorized)) {
			kind, data, err = e.fetch(ctx, client, path, query, limit, true)
		}
		var status statusError
		if errors.As(err, &status) {
			return e.config.fail(verr.Internal, "read %s: %w", path, err)
		}
		return err
	})
	return kind, data, err
}

func (e *Endpoint) fetch(ctx context.Context, client *vim25.Client, path string, query url.Values, limit int64, login bool) (
	kind string, data []byte, err error,
) {
	at := url.URL{Scheme: e.config.Transport, Host: e.config.Address, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", nil, err
	}
	if login {
		req.SetBasicAuth(e.config.User, string(e.config.Password))
	}
	err = client.Do(ctx, req, func(res *http.Response) error {
		if res.Request.URL.Host != e.config.Address {
			return e.config.fail(verr.Internal, "read %s: the endpoint sends its clients to %s", path, res.Request.URL.Host)
		}
		if res.StatusCode != http.StatusOK {
			return statusError(res.StatusCode)
		}
		kind = res.Header.Get("Content-Type")
		data, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err == nil && int64(len(data)) > limit {
			err = e.config.fail(verr.Internal, "read %s: more than %d bytes", path, limit)
		}
		return err
	})
	return kind, data, err
}
