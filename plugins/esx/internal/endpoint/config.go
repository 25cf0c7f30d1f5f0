package endpoint

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Product is what stands behind an endpoint; the zero value is any.
type Product string

// Products, by the schemes of libvirt's URIs.
const (
	ESX Product = "esx"
	VPX Product = "vpx"
)

// Secret is a password. It is never printed.
type Secret string

// String hides the secret.
func (Secret) String() string { return "(secret)" }

// GoString hides the secret.
func (Secret) GoString() string { return "(secret)" }

// Transports.
const (
	transportHTTP  = "http"
	transportHTTPS = "https"
)

// Config is an endpoint as it is configured.
type Config struct {
	// Name is by what clients, logs and errors call it.
	Name string
	// Address is "HOST" or "HOST:PORT"; the default port is that of Transport.
	Address string
	// Transport is "https", or "http" for a host behind a tunnel; empty is "https".
	Transport string
	// Product is what must be found there.
	Product Product
	// User and Password log in.
	User     string
	Password Secret
	// Certificate holds PEM certificates: the server's own or its issuers'. Empty trusts the system's issuers.
	Certificate []byte
	// Thumbprint is the SHA-256 or SHA-1 fingerprint of the server's certificate in hexadecimal, with or without colons. The
	// certificate that has it is trusted whatever it says.
	Thumbprint string
	// Insecure trusts every certificate.
	Insecure bool
	// Proxy, if not nil, is an "http" or "socks5" URL.
	Proxy *url.URL
	// ConnectTimeout bounds an attempt to connect and log in, 0 for 10 s.
	ConnectTimeout time.Duration
	// CallTimeout bounds Do, 0 for 30 s.
	CallTimeout time.Duration
	// KeepAlive is how often a session that nobody uses is touched, 0 for 5 minutes. Hosts end idle sessions after 15 or more.
	KeepAlive time.Duration
	// MinBackoff and MaxBackoff bound the pause after a failed attempt, 0 for 100 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// LoginBackoff is the pause after a refused login, 0 for 5 minutes: ESXi locks an account after 5 of them within 15 minutes.
	LoginBackoff time.Duration
}

// complete checks a configuration and fills in defaults.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		return c, verr.New(verr.InvalidArg, "an endpoint has no name").In(verr.FromESX)
	}
	if c.Transport == "" {
		c.Transport = transportHTTPS
	}
	if c.Transport != transportHTTP && c.Transport != transportHTTPS {
		return c, c.bad("transport %q is neither %q nor %q", c.Transport, transportHTTP, transportHTTPS)
	}
	host, port, err := splitAddress(c.Address)
	if err != nil {
		return c, c.bad("address %q: %w", c.Address, err)
	}
	if port == 0 {
		port = defaultPort(c.Transport)
	}
	c.Address = net.JoinHostPort(host, strconv.Itoa(port))
	if c.User == "" {
		return c, c.bad("user is empty")
	}
	switch c.Product {
	case "", ESX, VPX:
	default:
		return c, c.bad("product %q is neither %q nor %q", c.Product, ESX, VPX)
	}
	if c.Proxy != nil && (!goProxies[c.Proxy.Scheme] || c.Proxy.Hostname() == "") {
		return c, c.bad("proxy %q is no http or socks5 URL", c.Proxy.Redacted())
	}
	return c, c.times()
}

// times fills in durations.
func (c *Config) times() error {
	for _, t := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"connect time-out", &c.ConnectTimeout, 10 * time.Second},
		{"call time-out", &c.CallTimeout, 30 * time.Second},
		{"keep-alive", &c.KeepAlive, 5 * time.Minute},
		{"shortest backoff", &c.MinBackoff, 100 * time.Millisecond},
		{"longest backoff", &c.MaxBackoff, 30 * time.Second},
		{"login backoff", &c.LoginBackoff, 5 * time.Minute},
	} {
		if *t.value < 0 {
			return c.bad("%s %v is negative", t.name, *t.value)
		}
		if *t.value == 0 {
			*t.value = t.fallback
		}
	}
	return nil
}

func (c Config) bad(format string, args ...any) error {
	return verr.New(verr.InvalidArg, "endpoint %q: "+format, append([]any{c.Name}, args...)...).In(verr.FromESX)
}

func defaultPort(transport string) int {
	if transport == transportHTTP {
		return 80
	}
	return 443
}

// splitAddress takes "HOST" or "HOST:PORT" apart; an IPv6 address with a port stands in brackets.
func splitAddress(address string) (host string, port int, err error) {
	u, err := url.Parse("//" + address)
	switch {
	case err != nil:
		return "", 0, err
	case u.Host != address || !isHost(u.Hostname()):
		return "", 0, errAddress
	}
	if u.Port() != "" {
		if port, err = parsePort(u.Port()); err != nil {
			return "", 0, err
		}
	}
	return u.Hostname(), port, nil
}

// isHost says whether a string can be a host's name or an address without a zone.
func isHost(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Zone() == ""
	}
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(hostLetters, r) })
}

// hostLetters are what names of hosts are made of.
const hostLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"

// Check fails with InvalidArg for a configuration that Open would refuse, as far as that can be told without a password.
func (c Config) Check() error {
	_, err := c.complete()
	return err
}
