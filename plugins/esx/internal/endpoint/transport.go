package endpoint

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"reflect"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

// errEmpty is an answer that is well-formed and says nothing.
var errEmpty = errors.New("the answer is empty")

// newSOAP makes a client that connects as the configuration says and has not connected yet.
func newSOAP(c Config) (*soap.Client, error) {
	host, _, err := splitAddress(c.Address)
	if err != nil {
		return nil, c.bad("address %q: %w", c.Address, err)
	}
	trusted, err := trust(c, host)
	if err != nil {
		return nil, err
	}
	client := soap.NewClient(&url.URL{Scheme: c.Transport, Host: c.Address, Path: vim25.Path}, true)
	client.Namespace, client.Version = "urn:"+vim25.Namespace, vim25.Version
	client.UserAgent = "lodge"
	// The environment's proxy is not for a daemon, and govmomi's own way of dialling TLS would pass by the check.
	transport := client.DefaultTransport()
	transport.Proxy = nil
	if c.Proxy != nil {
		transport.Proxy = http.ProxyURL(c.Proxy)
	}
	transport.DialTLSContext = nil
	transport.TLSClientConfig = trusted
	transport.TLSHandshakeTimeout = c.ConnectTimeout
	transport.DialContext = (&net.Dialer{Timeout: c.ConnectTimeout}).DialContext
	return client, nil
}

// checked is a round-tripper that takes an answer without content for an error; govmomi would follow the nil pointer.
type checked struct{ next soap.RoundTripper }

// RoundTrip makes a call.
func (c checked) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	if err := c.next.RoundTrip(ctx, req, res); err != nil {
		return err
	}
	body := reflect.Indirect(reflect.ValueOf(res))
	if body.Kind() != reflect.Struct {
		return nil
	}
	if answer := body.FieldByName("Res"); answer.IsValid() && answer.Kind() == reflect.Pointer && answer.IsNil() {
		return errEmpty
	}
	return nil
}
