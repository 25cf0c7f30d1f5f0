// Package settings reads the plugin's own table and libvirt's file of credentials, and finds the endpoint and the place in it that a URI
// means.
//
// Endpoints are tables by their names. They hold no password: that is a secret of the core's, the first line of a file, or in the auth
// file, and is read anew for each connection, so that it may be replaced while the plugin runs. Hosts that are not configured are reached
// by URIs with a host's name if the auth file has credentials for them, as by libvirt's own driver.
//
// A table that Parse has taken never changes; all of it is safe concurrently. Errors are verr errors of domain FromESX: InvalidArg for a
// wrong table or URI, NoConnect for an endpoint that is not configured, AuthFailed for credentials that are missing.
package settings

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxEndpoints bounds the table.
const maxEndpoints = 256

// defaultAuthFile is libvirt's own.
const defaultAuthFile = "/etc/libvirt/auth.conf"

// Keys are the keys of the table.
func Keys() []*basev1.ConfigKey {
	return []*basev1.ConfigKey{
		{
			Name: "endpoints", Kind: basev1.ValueKind_VALUE_KIND_TABLES,
			Help: "ESX hosts and vCenter servers by name: address, user, and password_file or secret; optional are product, certificate, " +
				"thumbprint, no_verify, transport and proxy",
		},
		{
			Name: "auth_file", Kind: basev1.ValueKind_VALUE_KIND_STRING, DefaultValue: strconv.Quote(defaultAuthFile),
			Help: "libvirt's file of credentials, for endpoints without a password_file or secret and for hosts that are named in URIs",
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
	passwordFile, secret, certificate string
}

// Parse reads the table from JSON; empty text is an empty table.
func Parse(config []byte) (*Table, error) {
	raw := struct {
		Endpoints map[string]json.RawMessage `json:"endpoints"`
		AuthFile  string                     `json:"auth_file"`
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
	for _, name := range slices.Sorted(maps.Keys(raw.Endpoints)) {
		c, err := parseEndpoint(name, raw.Endpoints[name])
		if err != nil {
			return nil, err
		}
		t.endpoints = append(t.endpoints, c)
	}
	return t, nil
}

// validName is what a name in a URI's path can be.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// fields are what an endpoint's table may have.
type fields struct {
	Address      string `json:"address"`
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
	Secret       string `json:"secret"`
	Product      string `json:"product"`
	Certificate  string `json:"certificate"`
	Thumbprint   string `json:"thumbprint"`
	NoVerify     bool   `json:"no_verify"`
	Transport    string `json:"transport"`
	Proxy        string `json:"proxy"`
}

func parseEndpoint(name string, text json.RawMessage) (configured, error) {
	if !validName.MatchString(name) {
		return configured{}, invalid("endpoints: name %q is not made of letters, digits, '.', '_' and '-'", name)
	}
	f := fields{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		if bytes.Contains(text, []byte(`"password":`)) {
			return configured{}, invalid("endpoint %q: a password does not belong into the configuration: use password_file or secret", name)
		}
		return configured{}, invalid("endpoint %q: %w", name, err)
	}
	c := configured{
		Config: endpoint.Config{
			Name: name, Address: f.Address, Transport: f.Transport, Product: endpoint.Product(f.Product), User: f.User,
			Thumbprint: f.Thumbprint, Insecure: f.NoVerify,
		},
		passwordFile: f.PasswordFile, secret: f.Secret, certificate: f.Certificate,
	}
	if f.Secret != "" && f.PasswordFile != "" {
		return c, invalid("endpoint %q: only one of secret and password_file can be", name)
	}
	if f.Proxy != "" {
		proxy, err := url.Parse(f.Proxy)
		if err != nil {
			return c, invalid("endpoint %q: proxy: %w", name, err)
		}
		c.Proxy = proxy
	}
	return c, c.Check()
}

func invalid(format string, args ...any) error {
	return verr.New(verr.InvalidArg, format, args...).In(verr.FromESX)
}
