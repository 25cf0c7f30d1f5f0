// Package settings reads the plugin's own table and libvirt's file of credentials, and finds the endpoint and the place in it that a URI
// means.
//
// An endpoint is one string of the key "endpoints": its name and then KEY=VALUE words, with values in double quotes where they have
// spaces. It holds no password: that is in a file of its own, or in the auth file, and read anew for each connection, so that it may be
// replaced while the plugin runs. Hosts that are not configured are reached by URIs with a host's name if the auth file has credentials for
// them, as by libvirt's own driver.
//
// A table that Parse has taken never changes; all of it is safe concurrently. Errors are verr errors of domain FromESX: InvalidArg for a
// wrong table or URI, NoConnect for an endpoint that is not configured, AuthFailed for credentials that are missing.
package settings

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of the table.
const (
	maxEndpoints = 256
	maxText      = 4096
)

// defaultAuthFile is libvirt's own.
const defaultAuthFile = "/etc/libvirt/auth.conf"

// Keys are the keys of the table.
func Keys() []*basev1.ConfigKey {
	return []*basev1.ConfigKey{
		{
			Name: "endpoints", Kind: basev1.ValueKind_VALUE_KIND_STRINGS,
			Help: "ESX hosts and vCenter servers: NAME address=HOST[:PORT] user=USER [product=esx|vpx] [password_file=PATH] " +
				"[certificate=PATH] [thumbprint=HEX] [no_verify=1] [transport=https|http] [proxy=URL]",
		},
		{
			Name: "auth_file", Kind: basev1.ValueKind_VALUE_KIND_STRING, DefaultValue: strconv.Quote(defaultAuthFile),
			Help: "libvirt's file of credentials, for endpoints without a password_file and for hosts that are named in URIs",
		},
	}
}

// Table is the plugin's table.
type Table struct {
	endpoints []configured
	authFile  string
}

// configured is an endpoint of the table, without what is in files.
type configured struct {
	endpoint.Config
	passwordFile, certificate string
}

// Parse reads the table from JSON; empty text is an empty table.
func Parse(config []byte) (*Table, error) {
	raw := struct {
		Endpoints []string `json:"endpoints"`
		AuthFile  string   `json:"auth_file"`
	}{AuthFile: defaultAuthFile}
	if len(config) > 0 {
		if err := json.Unmarshal(config, &raw); err != nil {
			return nil, invalid("read configuration: %w", err)
		}
	}
	if len(raw.Endpoints) > maxEndpoints {
		return nil, invalid("endpoints: %d are more than %d", len(raw.Endpoints), maxEndpoints)
	}
	t := &Table{authFile: raw.AuthFile}
	names := map[string]bool{}
	for i, text := range raw.Endpoints {
		c, err := parseEndpoint(text)
		if err != nil {
			return nil, invalid("endpoints: number %d: %w", i+1, err)
		}
		if names[c.Name] {
			return nil, invalid("endpoints: %q is there twice", c.Name)
		}
		names[c.Name] = true
		t.endpoints = append(t.endpoints, c)
	}
	return t, nil
}

// validName is what a name in a URI's path can be.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// words are what an endpoint's description may have.
var words = map[string]func(c *configured, value string) error{
	"address":       func(c *configured, v string) error { c.Address = v; return nil },
	"user":          func(c *configured, v string) error { c.User = v; return nil },
	"password_file": func(c *configured, v string) error { c.passwordFile = v; return nil },
	"certificate":   func(c *configured, v string) error { c.certificate = v; return nil },
	"thumbprint":    func(c *configured, v string) error { c.Thumbprint = v; return nil },
	"transport":     func(c *configured, v string) error { c.Transport = v; return nil },
	"product":       func(c *configured, v string) error { c.Product = endpoint.Product(v); return nil },
	"no_verify": func(c *configured, v string) error {
		if v != "0" && v != "1" {
			return invalid("no_verify is %q, expecting 0 or 1", v)
		}
		c.Insecure = v == "1"
		return nil
	},
	"proxy": func(c *configured, v string) (err error) {
		c.Proxy, err = url.Parse(v)
		return err
	},
}

func parseEndpoint(text string) (configured, error) {
	parts, err := split(text)
	if err != nil {
		return configured{}, err
	}
	if len(parts) == 0 || !validName.MatchString(parts[0]) {
		return configured{}, invalid("%q does not begin with a name of letters, digits, '.', '_' and '-'", text)
	}
	c := configured{Config: endpoint.Config{Name: parts[0]}}
	for _, part := range parts[1:] {
		key, value, ok := strings.Cut(part, "=")
		set := words[key]
		switch {
		case key == "password":
			return c, invalid("endpoint %q: a password does not belong into the configuration: put it into a file and name that as "+
				"password_file", c.Name)
		case !ok || set == nil:
			return c, invalid("endpoint %q: unknown word %q", c.Name, key)
		}
		if err := set(&c, value); err != nil {
			return c, invalid("endpoint %q: %s: %w", c.Name, key, err)
		}
	}
	return c, c.Check()
}

// split takes a text apart at spaces that are not in double quotes.
func split(text string) ([]string, error) {
	if len(text) > maxText {
		return nil, invalid("%d bytes are more than %d", len(text), maxText)
	}
	var parts []string
	var part strings.Builder
	quoted, any := false, false
	for _, r := range text {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case (r == ' ' || r == '\t') && !quoted:
			if any {
				parts = append(parts, part.String())
			}
			part.Reset()
			any = false
		default:
			part.WriteRune(r)
			any = true
		}
	}
	if quoted {
		return nil, invalid("%q has a quote that does not end", text)
	}
	if any {
		parts = append(parts, part.String())
	}
	return parts, nil
}

func invalid(format string, args ...any) error {
	return verr.New(verr.InvalidArg, format, args...).In(verr.FromESX)
}
