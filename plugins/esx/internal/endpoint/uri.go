package endpoint

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

var (
	errAddress = errors.New("it is not HOST or HOST:PORT")
	errPort    = errors.New("a port is a number from 1 to 65535")
)

// URI is a connection URI of libvirt's ESX driver, https://libvirt.org/drvesx.html, or one of ours that names an endpoint by its
// configured name: "esx:///NAME", "vpx:///NAME/DATACENTER/HOST".
type URI struct {
	// Product is the scheme.
	Product Product
	// Name is of a configured endpoint; empty with an empty Host means the only one.
	Name string
	// Host, Port and User are of the authority; Port may be 0 and User empty.
	Host string
	Port int
	User string
	// Path leads to a host in a vCenter server's inventory: folders and datacenter, folders and compute resource, host.
	Path []string
	// Transport is "", "http" or "https".
	Transport string
	// VCenter is the server that manages an ESX host, by its name or "*" for the one that the host knows.
	VCenter string
	// NoVerify asks that the certificate is not verified.
	NoVerify bool
	// AutoAnswer asks that questions of virtual machines are answered with their defaults.
	AutoAnswer bool
	// Proxy is "http://HOST:PORT" or "socks5://HOST:PORT", or nil.
	Proxy *url.URL
}

// proxies are libvirt's types of proxy, with the one that Go's transport knows by its own name.
var proxies = map[string]string{"http": "http", "socks": "socks5", "socks5": "socks5", "socks4": "", "socks4a": ""}

// goProxies are the types that a connection can be made through.
var goProxies = map[string]bool{"http": true, "socks5": true}

// proxyPort is libcurl's default.
const proxyPort = 1080

// ParseURI reads a connection URI. Errors have the code InvalidArg and name the part that is wrong.
func ParseURI(s string) (URI, error) {
	u, err := url.Parse(s)
	if err != nil {
		return URI{}, invalid("cannot parse URI: %w", err)
	}
	uri := URI{Product: Product(u.Scheme)}
	if uri.Product != ESX && uri.Product != VPX {
		return URI{}, invalid("URI scheme %q is neither esx nor vpx", u.Scheme)
	}
	if u.Opaque != "" || u.Fragment != "" || !strings.HasPrefix(strings.TrimPrefix(s[len(u.Scheme):], ":"), "//") {
		return URI{}, invalid("URI %q is not of the form %s://[USER@HOST[:PORT]]/[PATH][?PARAMETERS]", u.Redacted(), u.Scheme)
	}
	if err := uri.authority(u); err != nil {
		return URI{}, err
	}
	if err := uri.path(u.EscapedPath()); err != nil {
		return URI{}, err
	}
	if err := uri.query(u.RawQuery); err != nil {
		return URI{}, err
	}
	return uri, nil
}

func (u *URI) authority(from *url.URL) error {
	if from.User != nil {
		if _, has := from.User.Password(); has {
			return invalid("a URI must not hold a password: configure an endpoint")
		}
		u.User = from.User.Username()
	}
	u.Host = from.Hostname()
	if u.Host == "" && from.Host+u.User != "" {
		return invalid("the URI has a user or a port but no host")
	}
	if u.Host != "" && !isHost(u.Host) {
		return invalid("URI host %q is neither a name nor an address", u.Host)
	}
	if p := from.Port(); p != "" {
		port, err := parsePort(p)
		if err != nil {
			return invalid("URI port %q: %w", p, err)
		}
		u.Port = port
	}
	return nil
}

func (u *URI) path(escaped string) error {
	trimmed := strings.TrimSuffix(strings.TrimPrefix(escaped, "/"), "/")
	var segments []string
	if trimmed != "" {
		for _, part := range strings.Split(trimmed, "/") {
			segment, err := url.PathUnescape(part)
			if err != nil || segment == "" {
				return invalid("URI path %q has an empty or broken part", escaped)
			}
			segments = append(segments, segment)
		}
	}
	if u.Host == "" && len(segments) > 0 {
		u.Name, segments = segments[0], segments[1:]
	}
	switch {
	case u.Product == ESX && len(segments) > 0:
		return invalid("URI path %q leads into an inventory, which only a vpx URI can", escaped)
	case u.Product == VPX && (len(segments) == 1 || u.Host != "" && len(segments) == 0):
		return invalid("URI path %q has to specify the datacenter and compute resource", escaped)
	}
	if len(segments) > 0 {
		u.Path = segments
	}
	return nil
}

// parameters are the query parameters by their names in lower case; libvirt compares names without regard to case.
var parameters = map[string]func(u *URI, value string) error{
	"transport": func(u *URI, value string) error {
		if value != transportHTTP && value != transportHTTPS {
			return unexpected("transport", value, "should be http|https")
		}
		u.Transport = value
		return nil
	},
	"vcenter": func(u *URI, value string) error {
		if value == "" || u.Product != ESX {
			return unexpected("vcenter", value, "should be a host name or *, in an esx URI")
		}
		u.VCenter = value
		return nil
	},
	"no_verify":   func(u *URI, value string) error { return flag(&u.NoVerify, "no_verify", value) },
	"auto_answer": func(u *URI, value string) error { return flag(&u.AutoAnswer, "auto_answer", value) },
	"proxy":       (*URI).proxy,
}

func (u *URI) query(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return invalid("cannot parse URI parameters: %w", err)
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		set := parameters[strings.ToLower(name)]
		if set == nil {
			return invalid("query parameter %q is not supported", name)
		}
		if err := set(u, values[name][len(values[name])-1]); err != nil {
			return err
		}
	}
	return nil
}

// proxy reads [TYPE://]HOST[:PORT].
func (u *URI) proxy(value string) error {
	kind, address, found := strings.Cut(value, "://")
	if !found {
		kind, address = "http", value
	}
	scheme, known := proxies[kind]
	if !known {
		return invalid("query parameter 'proxy' contains unexpected type '%s' (should be (http|socks(|4|4a|5))", kind)
	}
	if scheme == "" {
		return invalid("query parameter 'proxy': a proxy of type '%s' is not supported (use http or socks5)", kind)
	}
	host, port, err := splitAddress(address)
	if err != nil {
		return invalid("query parameter 'proxy' has unexpected value %q: %w", value, err)
	}
	if port == 0 {
		port = proxyPort
	}
	u.Proxy = &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(port))}
	return nil
}

// String writes the URI so that ParseURI reads it again.
func (u URI) String() string {
	out := url.URL{Scheme: string(u.Product)}
	path := u.Path
	if u.Host == "" && u.Name != "" {
		path = append([]string{u.Name}, path...)
	}
	authority := u.Host
	if strings.Contains(authority, ":") {
		authority = "[" + authority + "]"
	}
	if u.Port != 0 {
		authority += ":" + strconv.Itoa(u.Port)
	}
	out.Host = authority
	if u.User != "" {
		out.User = url.User(u.User)
	}
	escaped := make([]string, len(path))
	for i, segment := range path {
		escaped[i] = url.PathEscape(segment)
	}
	out.Path = "/" + strings.Join(path, "/")
	out.RawPath = "/" + strings.Join(escaped, "/")
	out.RawQuery = u.values().Encode()
	text := out.String()
	if authority == "" { // url.URL leaves out an empty authority
		text = out.Scheme + "://" + strings.TrimPrefix(strings.TrimPrefix(text, out.Scheme+":"), "//")
	}
	return text
}

func (u URI) values() url.Values {
	values := url.Values{}
	for name, value := range map[string]string{"transport": u.Transport, "vcenter": u.VCenter} {
		if value != "" {
			values.Set(name, value)
		}
	}
	for name, on := range map[string]bool{"no_verify": u.NoVerify, "auto_answer": u.AutoAnswer} {
		if on {
			values.Set(name, "1")
		}
	}
	if u.Proxy != nil {
		values.Set("proxy", u.Proxy.String())
	}
	return values
}

func flag(to *bool, name, value string) error {
	if value != "0" && value != "1" {
		return unexpected(name, value, "should be 0 or 1")
	}
	*to = value == "1"
	return nil
}

func parsePort(s string) (int, error) {
	port, err := strconv.Atoi(s)
	if err != nil || port < 1 || port > 65535 {
		return 0, errPort
	}
	return port, nil
}

func unexpected(name, value, should string) error {
	return invalid("query parameter '%s' has unexpected value '%s' (%s)", name, value, should)
}

func invalid(format string, args ...any) error {
	return verr.New(verr.InvalidArg, format, args...).In(verr.FromESX)
}
