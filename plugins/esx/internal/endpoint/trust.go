package endpoint

import (
	"bytes"
	"crypto/sha1" // vSphere's older kind of thumbprint
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

var (
	errThumbprint    = errors.New("it is neither a SHA-256 nor a SHA-1 fingerprint in hexadecimal")
	errOther         = errors.New("it has another fingerprint than the configured thumbprint")
	errNoPEM         = errors.New("it holds no PEM certificate")
	errNoCertificate = errors.New("the server showed no certificate")
)

// certificateError is a certificate that is not trusted.
type certificateError struct {
	// fingerprint is SHA-256.
	fingerprint string
	cause       error
}

// Error says what is wrong and what setting mends it.
func (e *certificateError) Error() string {
	return fmt.Sprintf("the server's certificate is not trusted: %v; if its SHA-256 fingerprint %s is right, set it as \"thumbprint\", "+
		"or give its issuer as \"certificate\"", e.cause, e.fingerprint)
}

// Unwrap returns what is wrong.
func (e *certificateError) Unwrap() error { return e.cause }

// trust makes the TLS configuration for a host. Go's own check is off because a thumbprint stands in its place; ours follows.
func trust(c Config, host string) (*tls.Config, error) {
	check, err := checker(c, host)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errNoCertificate
			}
			if cause := check(state.PeerCertificates); cause != nil {
				sum := sha256.Sum256(state.PeerCertificates[0].Raw)
				return &certificateError{fingerprint: colons(sum[:]), cause: cause}
			}
			return nil
		},
	}, nil
}

// checker returns the check of a chain that the configuration asks for.
func checker(c Config, host string) (func(chain []*x509.Certificate) error, error) {
	var roots *x509.CertPool
	if len(c.Certificate) > 0 {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(c.Certificate) {
			return nil, c.bad("certificate: %w", errNoPEM)
		}
	}
	switch {
	case c.Thumbprint != "":
		want, err := parseThumbprint(c.Thumbprint)
		if err != nil {
			return nil, c.bad("thumbprint %q: %w", c.Thumbprint, err)
		}
		return func(chain []*x509.Certificate) error { return compare(chain[0].Raw, want) }, nil
	case c.Insecure:
		return func([]*x509.Certificate) error { return nil }, nil
	}
	return func(chain []*x509.Certificate) error {
		between := x509.NewCertPool()
		for _, cert := range chain[1:] {
			between.AddCert(cert)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
		return err
	}, nil
}

func compare(raw, want []byte) error {
	long, short := sha256.Sum256(raw), sha1.Sum(raw)
	if bytes.Equal(want, long[:]) || bytes.Equal(want, short[:]) {
		return nil
	}
	return errOther
}

func parseThumbprint(s string) ([]byte, error) {
	sum, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	if err != nil || len(sum) != sha256.Size && len(sum) != sha1.Size {
		return nil, errThumbprint
	}
	return sum, nil
}

// colons writes a fingerprint as people compare it.
func colons(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}
