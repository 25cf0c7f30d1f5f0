package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/etcdtest"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", nil)
	return a
}

// sign makes a certificate and its key, in files of that name.
func (a *authority) sign(name string, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IsCA: parent == nil,
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		a.path(name): {Type: "CERTIFICATE", Bytes: der}, a.path(name + "-key"): {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name+".pem") }

// reach opens a store and asks for what there is.
func reach(t *testing.T, conf config.Config) error {
	t.Helper()
	conf.Prefix, conf.Host, conf.TTL, conf.DialTimeout, conf.RequestTimeout = "/locks/", "host", 10*time.Second, 3*time.Second, 3*time.Second
	s, err := store.Open(&conf, store.Identity{Instance: "i", Process: "p", Boot: "b"}, boot.Now)
	if err != nil {
		return err
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	granted, err := s.Grant(timeout(t))
	if err != nil {
		return err
	}
	if _, err := s.Enter(timeout(t), granted.Lease, false); err != nil {
		return err
	}
	if _, err := s.Renew(timeout(t), granted.Lease, 5*time.Second); err != nil {
		return err
	}
	return s.Revoke(timeout(t), granted.Lease)
}

func TestEncryption(t *testing.T) {
	a := newAuthority(t)
	for _, name := range []string{"server", "client"} {
		a.sign(name, a)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	own, err := tls.LoadX509KeyPair(a.path("client"), a.path("client-key"))
	if err != nil {
		t.Fatal(err)
	}
	c := etcdtest.Start(t, 1, etcdtest.Encrypted(a.path("ca"), a.path("server"), a.path("server-key"),
		&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}))
	good := config.Config{Endpoints: c.Endpoints(), CA: a.path("ca"), Cert: a.path("client"), Key: a.path("client-key")}
	if err := reach(t, good); err != nil {
		t.Errorf("with certificates: %v", err)
	}
	none := good
	none.Cert, none.Key = "", ""
	if err := reach(t, none); err == nil {
		t.Error("without a certificate of its own a host was let in")
	}
	stranger := newAuthority(t)
	other := good
	other.CA = stranger.path("ca")
	if err := reach(t, other); err == nil {
		t.Error("a member whose certificate somebody else has signed was trusted")
	}
	a.sign("client", a) // it is replaced while the host is there
	if err := reach(t, good); err != nil {
		t.Errorf("with another certificate: %v", err)
	}
}

func TestAuthentication(t *testing.T) {
	c := etcdtest.Start(t, 1)
	client := c.Client()
	for _, step := range []func() error{
		func() error { _, err := client.UserAdd(timeout(t), "root", "root"); return err },
		func() error { _, err := client.UserGrantRole(timeout(t), "root", "root"); return err },
		func() error { _, err := client.RoleAdd(timeout(t), "locks"); return err },
		func() error {
			_, err := client.RoleGrantPermission(timeout(t), "locks", "/locks/", clientv3.GetPrefixRangeEnd("/locks/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := client.RoleAdd(timeout(t), "other"); return err },
		func() error { _, err := client.UserAdd(timeout(t), "lodge", "secret"); return err },
		func() error { _, err := client.UserGrantRole(timeout(t), "lodge", "locks"); return err },
		func() error { _, err := client.UserAdd(timeout(t), "stranger", "secret"); return err },
		func() error { _, err := client.UserGrantRole(timeout(t), "stranger", "other"); return err },
		func() error { _, err := client.AuthEnable(timeout(t)); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	password := func(text string) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := reach(t, config.Config{Endpoints: c.Endpoints(), User: "lodge", PasswordFile: password("secret")}); err != nil {
		t.Errorf("with a user: %v", err)
	}
	away, err := store.Open(&config.Config{
		Endpoints: []string{"http://127.0.0.1:1"}, User: "lodge", PasswordFile: password("secret"), TTL: 10 * time.Second,
		DialTimeout: time.Second, RequestTimeout: time.Second,
	}, store.Identity{}, boot.Now)
	if err != nil {
		t.Fatalf("with a user, while no member is there: %v", err)
	}
	if _, err := away.Grant(timeout(t)); err == nil || verr.Is(err, verr.AuthFailed) {
		t.Errorf("a lease of a cluster that is not there: %v", err)
	}
	if err := away.Close(); err != nil {
		t.Error(err)
	}
	for _, w := range []struct {
		name, user, password, says string
	}{
		{"nobody", "", "", "set user and password_file"},
		{"a wrong password", "lodge", "wrong", "check user and password_file"},
		{"a user who may not", "stranger", "secret", "grant it"},
	} {
		conf := config.Config{Endpoints: c.Endpoints(), User: w.user}
		if w.password != "" {
			conf.PasswordFile = password(w.password)
		}
		if err := reach(t, conf); !verr.Is(err, verr.AuthFailed) || !strings.Contains(err.Error(), w.says) {
			t.Errorf("%s: %v, want code 45 and a sentence with %q", w.name, err, w.says)
		}
	}
}
