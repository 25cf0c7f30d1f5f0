package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// configFor is the configuration that fits a server, with times for tests.
func configFor(s *vimtest.Server) endpoint.Config {
	return endpoint.Config{
		Name: "lab", Address: s.Address(), User: vimtest.User, Password: vimtest.Password, Thumbprint: s.SHA256(),
		ConnectTimeout: time.Second, CallTimeout: 2 * time.Second, MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	}
}

func open(t testing.TB, c endpoint.Config) *endpoint.Endpoint {
	t.Helper()
	e, err := endpoint.Open(c, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// ask makes a call that needs a session.
func ask(e *endpoint.Endpoint) error {
	return e.Do(context.Background(), func(ctx context.Context, c *vim25.Client) error {
		_, err := methods.GetCurrentTime(ctx, c)
		return err
	})
}

// eventually asks until the answer is good.
func eventually(t *testing.T, e *endpoint.Endpoint) {
	t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ask(e); err == nil {
			return
		}
	}
	t.Fatalf("the endpoint does not come back: %v", err)
}

// tells checks code and words of an error.
func tells(t *testing.T, err error, code verr.Code, words ...string) {
	t.Helper()
	if !verr.Is(err, code) {
		t.Fatalf("error is %v (code %d), want code %d", err, verr.From(err).Code, code)
	}
	for _, word := range append(words, `"lab"`) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}

func TestEveryKindOfTrustConnects(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	for name, set := range map[string]func(c *endpoint.Config){
		"SHA-256":     func(c *endpoint.Config) { c.Thumbprint = strings.ToLower(s.SHA256()) },
		"SHA-1":       func(c *endpoint.Config) { c.Thumbprint = strings.ReplaceAll(s.SHA1(), ":", "") },
		"certificate": func(c *endpoint.Config) { c.Certificate = s.PEM },
		"insecure":    func(c *endpoint.Config) { c.Insecure = true },
	} {
		t.Run(name, func(t *testing.T) {
			c := configFor(s)
			c.Thumbprint = ""
			set(&c)
			if err := ask(open(t, c)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestUntrustedCertificatesAreNamed(t *testing.T) {
	good, expired := vimtest.Start(t, vimtest.Options{}), vimtest.Start(t, vimtest.Options{Expired: true})
	for name, test := range map[string]struct {
		s     *vimtest.Server
		set   func(c *endpoint.Config)
		cause string
	}{
		"unknown":          {good, func(c *endpoint.Config) {}, "unknown authority"},
		"other thumbprint": {good, func(c *endpoint.Config) { c.Thumbprint = expired.SHA256() }, "another fingerprint"},
		"other issuer":     {good, func(c *endpoint.Config) { c.Certificate = expired.PEM }, "authority"},
		"expired":          {expired, func(c *endpoint.Config) { c.Certificate = expired.PEM }, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			c := configFor(test.s)
			c.Thumbprint = ""
			test.set(&c)
			tells(t, ask(open(t, c)), verr.Internal, test.cause, test.s.SHA256(), `"thumbprint"`)
			if n := test.s.Spoiler.Calls("Login"); n != 0 {
				t.Errorf("%d logins were sent to a server that is not trusted", n)
			}
		})
	}
	c := configFor(expired)
	if err := ask(open(t, c)); err != nil {
		t.Errorf("an expired certificate with the right thumbprint is refused: %v", err)
	}
}

func TestWrongPasswordIsAuthFailedAndNotTriedAtOnceAgain(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	c := configFor(s)
	c.Password = "wrong pass"
	e := open(t, c)
	for range 3 {
		err := ask(e)
		tells(t, err, verr.AuthFailed, vimtest.User, s.Address())
		if strings.Contains(err.Error(), "wrong pass") || strings.Contains(fmt.Sprintf("%v %+v %#v", c, c, c), "wrong pass") {
			t.Error("the password is told")
		}
	}
	if n := s.Spoiler.Calls("Login"); n != 1 {
		t.Errorf("%d logins were tried, want 1", n)
	}
}

func TestProductIsChecked(t *testing.T) {
	for _, test := range []struct {
		options vimtest.Options
		right   endpoint.Product
		wrong   endpoint.Product
	}{{vimtest.Options{}, endpoint.ESX, endpoint.VPX}, {vimtest.Options{VPX: true}, endpoint.VPX, endpoint.ESX}} {
		s := vimtest.Start(t, test.options)
		c := configFor(s)
		c.Product = test.right
		got, err := open(t, c).Session(context.Background())
		if err != nil || got.Product != test.right || got.About().ApiVersion == "" {
			t.Errorf("session is %+v, %v", got, err)
		}
		c.Product = test.wrong
		tells(t, ask(open(t, c)), verr.Internal, "is no "+string(test.wrong)+" endpoint")
	}
}

func TestDeadHostIsToldAndFoundAgain(t *testing.T) {
	c := endpoint.Config{Name: "lab", Address: vimtest.DeadAddress(t), User: "u", Insecure: true}
	tells(t, ask(open(t, c)), verr.Internal, c.Address, "refused")

	s := vimtest.Start(t, vimtest.Options{})
	e := open(t, configFor(s))
	s.Gate.Cut()
	tells(t, ask(e), verr.Internal, s.Address())
	s.Gate.Open()
	eventually(t, e)
}

func TestHostThatHangsDelaysNobodyElse(t *testing.T) {
	stalled, well := vimtest.Start(t, vimtest.Options{}), vimtest.Start(t, vimtest.Options{})
	a, b := open(t, configFor(stalled)), open(t, configFor(well))
	if err := errors.Join(ask(a), ask(b)); err != nil {
		t.Fatal(err)
	}
	stalled.Gate.Hang()
	const callers = 4
	errs := make(chan error, callers)
	for range callers {
		go func() { errs <- ask(a) }()
	}
	for range 20 {
		if err := ask(b); err != nil {
			t.Error(err)
		}
	}
	for range callers {
		tells(t, <-errs, verr.OperationTimeout, stalled.Address())
	}
	stalled.Gate.Open()
	eventually(t, a)
	if n := stalled.Sessions(); n != 1 {
		t.Errorf("%d sessions are open after a stall, want the old one", n)
	}
}

func TestHostThatHangsBeforeItIsConnected(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	s.Gate.Hang()
	e := open(t, configFor(s))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := e.Session(ctx)
	tells(t, err, verr.OperationTimeout)
	tells(t, ask(e), verr.Internal, s.Address())
}

func TestSlowHostIsNoError(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	s.Gate.Late(50 * time.Millisecond)
	if err := ask(open(t, configFor(s))); err != nil {
		t.Fatal(err)
	}
}

func TestHostThatDiesInACall(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	e := open(t, configFor(s))
	if err := ask(e); err != nil {
		t.Fatal(err)
	}
	s.Gate.Hang()
	time.AfterFunc(50*time.Millisecond, s.Gate.Cut)
	tells(t, ask(e), verr.Internal, s.Address())
	s.Gate.Open()
	eventually(t, e)
}

func TestNonsenseAndFaultsAreErrors(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	for name, test := range map[string]struct {
		spoil func()
		code  verr.Code
		word  string
	}{
		"garbage":        {func() { s.Spoiler.Garbage("") }, verr.Internal, s.Address()},
		"empty answer":   {func() { s.Spoiler.Empty("") }, verr.Internal, "empty"},
		"no service yet": {func() { s.Spoiler.Unavailable("") }, verr.Internal, "503"},
		"fault":          {func() { s.Spoiler.Fault("", "SystemError") }, verr.Internal, "SystemError"},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, configFor(s))
			test.spoil()
			tells(t, ask(e), test.code, test.word)
			s.Spoiler.Off()
			eventually(t, e)
			test.spoil()
			tells(t, ask(e), test.code, test.word)
			s.Spoiler.Off()
			eventually(t, e)
		})
	}
	e := open(t, configFor(s))
	s.Spoiler.Fault("CurrentTime", "NoPermission")
	tells(t, ask(e), verr.AccessDenied, vimtest.User)
	s.Spoiler.Fault("CurrentTime", "NotAuthenticated")
	tells(t, ask(e), verr.AuthFailed)
	s.Spoiler.Off()
}

func TestExpiredSessionIsRenewedUnseen(t *testing.T) {
	for _, vpx := range []bool{false, true} {
		s := vimtest.Start(t, vimtest.Options{VPX: vpx})
		e := open(t, configFor(s))
		for range 3 {
			if err := ask(e); err != nil {
				t.Fatal(err)
			}
			s.ExpireSessions()
		}
		if n := s.Spoiler.Calls("Login"); n != 3 {
			t.Errorf("%d logins, want 3", n)
		}
	}
}

func TestIdleSessionIsKeptAliveAndRenewed(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	c := configFor(s)
	c.KeepAlive = 20 * time.Millisecond
	e := open(t, c)
	if _, err := e.Session(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.ExpireSessions()
	for end := time.Now().Add(5 * time.Second); s.Spoiler.Calls("Login") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the session is not renewed")
		}
	}
	if err := ask(e); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	e := open(t, configFor(s))
	if err := ask(e); err != nil {
		t.Fatal(err)
	}
	e.Close()
	tells(t, ask(e), verr.InvalidConn)
	if n := s.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}

	e = open(t, configFor(s))
	if err := ask(e); err != nil {
		t.Fatal(err)
	}
	s.Gate.Hang()
	done := make(chan error)
	go func() { done <- ask(e) }()
	time.Sleep(50 * time.Millisecond)
	e.Close()
	if err := <-done; err == nil {
		t.Error("a call to a host that hangs succeeds")
	}
}

func TestWrongConfigurationsAreRefused(t *testing.T) {
	good := endpoint.Config{Name: "lab", Address: "h", User: "u"}
	for name, set := range map[string]func(c *endpoint.Config){
		"address":     func(c *endpoint.Config) { c.Address = "a b" },
		"port":        func(c *endpoint.Config) { c.Address = "h:0" },
		"user":        func(c *endpoint.Config) { c.User = "" },
		"transport":   func(c *endpoint.Config) { c.Transport = "ftp" },
		"product":     func(c *endpoint.Config) { c.Product = "gsx" },
		"thumbprint":  func(c *endpoint.Config) { c.Thumbprint = "AB:CD" },
		"certificate": func(c *endpoint.Config) { c.Certificate = []byte("x") },
		"call":        func(c *endpoint.Config) { c.CallTimeout = -1 },
	} {
		c := good
		set(&c)
		_, err := endpoint.Open(c, hclog.NewNullLogger())
		if !verr.Is(err, verr.InvalidArg) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
