package endpoint

import (
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Resolve finds the configured endpoint that a URI means: by its name, by its address, or the only one of the product.
//
// The password is the configuration's, and a client must not be able to send it elsewhere or past a weaker check. So a URI
// may repeat what the configuration says about user, transport, proxy and verification, but not change it; no_verify=1 is let pass
// where a certificate or thumbprint is configured, and the endpoint is verified all the same. Errors have the codes NoConnect and
// InvalidArg.
func Resolve(configured []Config, uri URI) (Config, error) {
	var found []Config
	for _, c := range configured {
		c, err := c.complete()
		if err != nil {
			return Config{}, err
		}
		if uri.means(c) {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0:
		return Config{}, verr.New(verr.NoConnect, "%s: no endpoint of that name or address is configured", uri).In(verr.FromESX)
	case len(found) > 1:
		return Config{}, invalid("%d %s endpoints are configured for %q: name one as in %s:///NAME",
			len(found), uri.Product, uri.target(), uri.Product)
	}
	return found[0], uri.obeys(found[0])
}

// means says whether the URI can mean an endpoint.
func (u URI) means(c Config) bool {
	if c.Product != "" && c.Product != u.Product {
		return false
	}
	if u.Host == "" {
		return u.Name == "" || u.Name == c.Name
	}
	host, port, err := splitAddress(c.Address)
	if err != nil || !strings.EqualFold(host, u.Host) {
		return false
	}
	transport := u.Transport
	if transport == "" {
		transport = c.Transport
	}
	return port == u.Port || u.Port == 0 && port == defaultPort(transport)
}

// obeys refuses a URI that asks for something else than what is configured.
func (u URI) obeys(c Config) error {
	for _, part := range []struct {
		name  string
		fault bool
	}{
		{"user", u.User != "" && u.User != c.User},
		{"transport", u.Transport != "" && u.Transport != c.Transport},
		{"proxy", u.Proxy != nil && (c.Proxy == nil || u.Proxy.String() != c.Proxy.String())},
		{"no_verify", u.NoVerify && !c.Insecure && len(c.Certificate) == 0 && c.Thumbprint == "" && c.Transport == transportHTTPS},
	} {
		if part.fault {
			return invalid("the URI's %s contradicts the configuration of endpoint %q: change it there", part.name, c.Name)
		}
	}
	return nil
}

// target is how the URI names the endpoint.
func (u URI) target() string {
	if u.Host == "" {
		return u.Name
	}
	return u.Host
}
