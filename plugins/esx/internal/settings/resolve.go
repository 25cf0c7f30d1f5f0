package settings

import (
	"context"
	"net"
	"strconv"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Target is what a URI means.
type Target struct {
	// Connection names it: the URI in the one form that all URIs which mean it have. It may name a user.
	Connection string
	// URI is the connection as clients are told it, without a user.
	URI string
	// Path leads to a host of a vCenter server, empty for all of it.
	Path []string
	// AutoAnswer asks that questions of machines are answered with their defaults.
	AutoAnswer bool
	// Configured says that the endpoint is one of the table's.
	Configured bool
	// uri is the one that was given, with the name of the configured endpoint.
	uri endpoint.URI
}

// users are who libvirt's own driver logs in as where nobody is named.
var users = map[endpoint.Product]string{endpoint.ESX: "root", endpoint.VPX: "administrator"}

// Find finds out what a URI means, without a look at passwords.
func (t *Table) Find(text string) (Target, error) {
	uri, err := endpoint.ParseURI(text)
	if err != nil {
		return Target{}, err
	}
	if uri.VCenter != "" {
		return Target{}, invalid("query parameter 'vcenter' is not supported: to move machines, open vpx://VCENTER/DATACENTER/HOST")
	}
	all := make([]endpoint.Config, len(t.endpoints))
	for i, c := range t.endpoints {
		all[i] = c.Config
	}
	found, err := endpoint.Resolve(all, uri)
	target := Target{Path: uri.Path, AutoAnswer: uri.AutoAnswer}
	switch {
	case err == nil:
		target.Configured = true
		target.uri = endpoint.URI{Product: uri.Product, Name: found.Name, Path: uri.Path, AutoAnswer: uri.AutoAnswer}
	case uri.Host == "" || !verr.Is(err, verr.NoConnect):
		return Target{}, err
	default:
		target.uri = t.adHoc(uri)
	}
	target.Connection = target.uri.String()
	public := target.uri
	public.User = ""
	target.URI = public.String()
	return target, nil
}

// adHoc completes the URI of a host that is not configured.
func (t *Table) adHoc(uri endpoint.URI) endpoint.URI {
	if uri.Transport == "https" {
		uri.Transport = ""
	}
	if uri.Port == 443 && uri.Transport == "" || uri.Port == 80 && uri.Transport == "http" {
		uri.Port = 0
	}
	if uri.User == "" {
		uri.User = users[uri.Product]
		if found, ok, err := t.lookup(uri.Host); err == nil && ok && found.user != "" {
			uri.User = found.user
		}
	}
	return uri
}

// Vault returns the value of a secret of the core's.
type Vault func(ctx context.Context, uuid string) ([]byte, error)

// Config completes the configuration of a target's endpoint with what is in files and secrets.
func (t *Table) Config(ctx context.Context, target Target, vault Vault) (endpoint.Config, error) {
	if !target.Configured {
		return t.adHocConfig(target.uri)
	}
	for _, c := range t.endpoints {
		if c.Name == target.uri.Name {
			return t.complete(ctx, c, target.uri.Product, vault)
		}
	}
	return endpoint.Config{}, verr.New(verr.NoConnect, "endpoint %q: it is not configured any more", target.uri.Name).In(verr.FromESX)
}

// complete reads the files of a configured endpoint.
func (t *Table) complete(ctx context.Context, c configured, product endpoint.Product, vault Vault) (endpoint.Config, error) {
	out := c.Config
	out.Product = product
	if c.certificate != "" {
		pem, err := readFile(c.certificate, maxCertificate, 0)
		if err != nil {
			return out, invalid("endpoint %q: read certificate: %w", c.Name, err)
		}
		out.Certificate = pem
	}
	if c.secret != "" {
		password, err := vault(ctx, c.secret)
		if err != nil {
			e := verr.From(err)
			return out, verr.New(e.Code, "endpoint %q: read secret '%s': %w", c.Name, c.secret, err).In(verr.FromESX)
		}
		out.Password = endpoint.Secret(password)
		return out, nil
	}
	if c.passwordFile != "" {
		password, err := readPassword(c.passwordFile)
		out.Password = password
		return out, err
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		host = c.Address
	}
	found, err := t.credentials(host, c.User)
	out.Password = found.password
	return out, err
}

// adHocConfig is the configuration of a host that only a URI names.
func (t *Table) adHocConfig(uri endpoint.URI) (endpoint.Config, error) {
	found, err := t.credentials(uri.Host, uri.User)
	if err != nil {
		return endpoint.Config{}, err
	}
	address := uri.Host
	if uri.Port != 0 {
		address = net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
	}
	return endpoint.Config{
		Name: uri.Host, Address: address, Transport: uri.Transport, Product: uri.Product, User: uri.User, Password: found.password,
		Insecure: uri.NoVerify, Proxy: uri.Proxy,
	}, nil
}

// credentials are those of a user of a host.
func (t *Table) credentials(host, user string) (credentials, error) {
	found, ok, err := t.lookup(host)
	switch {
	case err != nil:
		return found, err
	case !ok:
		return found, verr.New(verr.AuthFailed, "no password for host %q: add groups [auth-esx-%s] and [credentials-NAME] to auth file %q, "+
			"or configure an endpoint with password_file", host, host, t.authFile).In(verr.FromESX)
	case found.user != "" && found.user != user:
		return found, verr.New(verr.AuthFailed, "auth file %q has the password of user %q of host %q, not that of %q",
			t.authFile, found.user, host, user).In(verr.FromESX)
	case found.password == "":
		return found, verr.New(verr.AuthFailed, "auth file %q has no password for host %q", t.authFile, host).In(verr.FromESX)
	}
	return found, nil
}
