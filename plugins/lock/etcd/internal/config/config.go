// Package config reads the plugin's own table. Every error names the key that is wrong and what it may be; a table that has passed can
// be used. The certificate and its key are read again for each connection, so they may be replaced while the plugin runs; the other files are
// read when the plugin is configured. Nothing here keeps state; all of it is safe concurrently.
package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of the table.
const (
	// MinTTL is the shortest time to live that an operator may choose. What has to happen within it, from a renewal that fails to
	// the end of a guest, takes seconds on a machine that is busy.
	MinTTL = 5 * time.Second
	// MaxTTL bounds how long the locks of a host that was lost stay taken.
	MaxTTL       = time.Hour
	maxEndpoints = 32
	maxText      = 255
	maxTimeout   = time.Minute
	// maxFile is the largest file with a certificate, key or password, in bytes.
	maxFile = 1 << 20
)

// Config is the plugin's table, complete.
type Config struct {
	// Endpoints are URLs of the cluster's members.
	Endpoints []string `json:"endpoints"`
	// CA, Cert and Key are paths of PEM files, or empty.
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
	// User and PasswordFile are for etcd's own authentication, or empty.
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
	// Prefix is before the names of all keys; it ends with a slash.
	Prefix string `json:"prefix"`
	// Host is the name of this host, for people.
	Host string `json:"host"`
	// TTL is how long the locks of a host that is not heard of stay taken.
	TTL time.Duration `json:"ttl"`
	// DialTimeout bounds a connection's making.
	DialTimeout time.Duration `json:"dial_timeout"`
	// RequestTimeout bounds one request to etcd.
	RequestTimeout time.Duration `json:"request_timeout"`
	// AutoDiskLeases has the disks of guests locked, and not only the leases that their definitions name.
	AutoDiskLeases bool `json:"auto_disk_leases"`
	// RequireLeaseForDisks refuses guests with writable disks that nothing would lock.
	RequireLeaseForDisks bool `json:"require_lease_for_disks"`
}

// table is what an operator may write; what he has not written is nil.
type table struct {
	Endpoints            *[]string `json:"endpoints"`
	CA                   *string   `json:"ca"`
	Cert                 *string   `json:"cert"`
	Key                  *string   `json:"key"`
	User                 *string   `json:"user"`
	PasswordFile         *string   `json:"password_file"`
	Prefix               *string   `json:"prefix"`
	Host                 *string   `json:"host"`
	TTL                  *int64    `json:"ttl"`
	DialTimeout          *int64    `json:"dial_timeout"`
	RequestTimeout       *int64    `json:"request_timeout"`
	AutoDiskLeases       *bool     `json:"auto_disk_leases"`
	RequireLeaseForDisks *bool     `json:"require_lease_for_disks"`
}

// Keys describes the table to the core.
func Keys() []*basev1.ConfigKey {
	const (
		text = basev1.ValueKind_VALUE_KIND_STRING
		list = basev1.ValueKind_VALUE_KIND_STRINGS
		num  = basev1.ValueKind_VALUE_KIND_INTEGER
		flag = basev1.ValueKind_VALUE_KIND_BOOLEAN
	)
	return []*basev1.ConfigKey{
		{Name: "endpoints", Kind: list, Help: `members of the etcd cluster, for example ["https://a:2379", "https://b:2379"]; there is no default`},
		{Name: "ca", Kind: text, DefaultValue: `""`, Help: "PEM file of who signs the members' certificates; empty is the system's"},
		{Name: "cert", Kind: text, DefaultValue: `""`, Help: "PEM file of this host's own certificate, with key"},
		{Name: "key", Kind: text, DefaultValue: `""`, Help: "PEM file of its key"},
		{Name: "user", Kind: text, DefaultValue: `""`, Help: "user of etcd, with password_file"},
		{Name: "password_file", Kind: text, DefaultValue: `""`, Help: "file with that user's password, for nobody else to read"},
		{Name: "prefix", Kind: text, DefaultValue: `"/lodge/locks/"`, Help: "first part of all keys; the same on all hosts that share storage"},
		{Name: "host", Kind: text, DefaultValue: `""`, Help: "name of this host in messages; empty is the host name and digits that stand for the machine-id"},
		{Name: "ttl", Kind: num, DefaultValue: "30", Help: "seconds until the locks of a host that is not heard of are free, and its guests are ended"},
		{Name: "dial_timeout", Kind: num, DefaultValue: "3", Help: "seconds that a connection to etcd may take"},
		{Name: "request_timeout", Kind: num, DefaultValue: "5", Help: "seconds that one request to etcd may take"},
		{Name: "auto_disk_leases", Kind: flag, DefaultValue: "true", Help: "locks the writable disks of guests; false only what <lease> elements name"},
		{Name: "require_lease_for_disks", Kind: flag, DefaultValue: "false", Help: "refuses guests with writable disks and no lease; the default is true where auto_disk_leases is false"},
	}
}

// Parser reads tables.
type Parser struct {
	// MinTTL is the shortest time to live, MinTTL of this package if it is 0.
	MinTTL time.Duration
	// Machine tells what the host is called where the table does not.
	Machine func() (string, error)
}

// Parse reads and checks the table, a JSON object. An error is verr.ConfigUnsupported.
func (p Parser) Parse(data []byte) (*Config, error) {
	var t table
	if len(data) > 0 {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&t); err != nil {
			return nil, verr.New(verr.ConfigUnsupported, "read configuration: %w", err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, verr.New(verr.ConfigUnsupported, "read configuration: more than one JSON value")
		}
	}
	auto := or(t.AutoDiskLeases, true)
	c := &Config{
		Endpoints: or(t.Endpoints, nil),
		CA:        or(t.CA, ""), Cert: or(t.Cert, ""), Key: or(t.Key, ""),
		User: or(t.User, ""), PasswordFile: or(t.PasswordFile, ""),
		Prefix: or(t.Prefix, "/lodge/locks/"), Host: or(t.Host, ""),
		TTL: seconds(t.TTL, 30), DialTimeout: seconds(t.DialTimeout, 3), RequestTimeout: seconds(t.RequestTimeout, 5),
		AutoDiskLeases: auto, RequireLeaseForDisks: or(t.RequireLeaseForDisks, !auto),
	}
	if c.Host == "" {
		name, err := p.Machine()
		if err != nil {
			return nil, verr.New(verr.ConfigUnsupported, "host is not set, and this machine does not tell its name: %w", err)
		}
		c.Host = name
	}
	if err := p.check(c); err != nil {
		return nil, verr.New(verr.ConfigUnsupported, "%w", err)
	}
	return c, nil
}

func or[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// seconds reads a number of seconds; one that no duration can hold becomes one that is refused.
func seconds(value *int64, otherwise int64) time.Duration {
	const most = int64(MaxTTL/time.Second) + 1
	return time.Duration(min(max(or(value, otherwise), -1), most)) * time.Second
}

// check refuses what cannot work.
func (p Parser) check(c *Config) error {
	shortest := p.MinTTL
	if shortest == 0 {
		shortest = MinTTL
	}
	for _, r := range []struct {
		wrong bool
		say   string
	}{
		{c.TTL < shortest || c.TTL > MaxTTL, fmt.Sprintf("ttl must be %d to %d seconds", shortest/time.Second, MaxTTL/time.Second)},
		{outside(c.DialTimeout), "dial_timeout must be 1 to 60 seconds"},
		{outside(c.RequestTimeout), "request_timeout must be 1 to 60 seconds"},
		{!printable(c.Host), "host must be a name of at most 255 printable characters"},
		{!printable(c.Prefix) || !strings.HasSuffix(c.Prefix, "/"), `prefix must be of printable characters and end with a slash, for example "/lodge/locks/"`},
		{(c.Cert == "") != (c.Key == ""), "cert and key belong together: set both or none"},
		{(c.User == "") != (c.PasswordFile == ""), "user and password_file belong together: set both or none"},
		{c.User != "" && !printable(c.User), "user must be a name of at most 255 printable characters"},
	} {
		if r.wrong {
			return errors.New(r.say)
		}
	}
	if err := c.checkEndpoints(); err != nil {
		return fmt.Errorf("endpoints: %w", err)
	}
	if _, err := c.TLS(); err != nil {
		return err
	}
	_, err := c.Password()
	return err
}

func outside(d time.Duration) bool { return d < time.Second || d > maxTimeout }

func printable(s string) bool {
	return s != "" && len(s) <= maxText && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// checkEndpoints refuses what the client would find out only when it connects, or never.
func (c *Config) checkEndpoints() error {
	if len(c.Endpoints) == 0 {
		return errors.New(`name the members of the etcd cluster, for example ["https://a:2379"]`)
	}
	if len(c.Endpoints) > maxEndpoints {
		return fmt.Errorf("at most %d members may be named", maxEndpoints)
	}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return fmt.Errorf(`%q is no URL like "https://name:2379"`, clip(e))
		}
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return fmt.Errorf(`%q has no port, which for etcd mostly is 2379`, clip(e))
		}
		if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("%q has more than a scheme, a name and a port", clip(e))
		}
		if first, _, _ := strings.Cut(c.Endpoints[0], ":"); u.Scheme != first {
			return fmt.Errorf("%q and %q must both be https, or both http", clip(c.Endpoints[0]), clip(e))
		}
		if u.Scheme == "http" && (c.CA != "" || c.Cert != "") {
			return fmt.Errorf("%q is not encrypted, so ca, cert and key would not be used: write https", clip(e))
		}
	}
	return nil
}

// clip keeps a value from filling a message.
func clip(s string) string { return s[:min(len(s), maxText)] }

// TLS returns what encrypts the connections, or nil where they are not encrypted.
func (c *Config) TLS() (*tls.Config, error) {
	if !strings.HasPrefix(c.Endpoints[0], "https:") {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := read(c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: file %q has no certificate in PEM form", c.CA)
		}
	}
	if c.Cert != "" {
		if _, err := c.certificate(); err != nil {
			return nil, err
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate() }
	}
	return conf, nil
}

// certificate reads this host's own certificate.
func (c *Config) certificate() (*tls.Certificate, error) {
	cert, err := read(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	key, err := read(c.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cert and key: files %q and %q: %w", c.Cert, c.Key, err)
	}
	return &pair, nil
}

// Password returns the user's password, or "" where there is no user. White space around it is not part of it.
func (c *Config) Password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	info, err := os.Stat(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("password_file: %q has mode %04o, so others could read it: make it 0600", c.PasswordFile, info.Mode().Perm())
	}
	text, err := read(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	password := strings.TrimSpace(string(text))
	if password == "" {
		return "", fmt.Errorf("password_file: %q is empty", c.PasswordFile)
	}
	return password, nil
}

// read reads a small regular file.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%q is no regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}
