package endpoint

import (
	"context"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// minAPI is the first version of the API with WaitForUpdatesEx.
var minAPI = [2]int{4, 1}

// products are the products by AboutInfo.apiType.
var products = map[string]Product{"HostAgent": ESX, "VirtualCenter": VPX}

// logoutTimeout bounds the farewell, which only spares the host an idle session.
const logoutTimeout = 2 * time.Second

// Session is a session of an endpoint; it stays the same object until it has to be replaced.
type Session struct {
	// Client makes calls. It is safe concurrently.
	Client *vim25.Client
	// Product is what answers.
	Product Product
}

// About is what the endpoint says about itself.
func (s *Session) About() types.AboutInfo { return s.Client.ServiceContent.About }

// renew returns the old session if it still holds, else a new one.
func (e *Endpoint) renew(ctx context.Context, old *Session) (*Session, error) {
	if old != nil {
		err := e.touch(ctx, old)
		if err == nil {
			return old, nil
		}
		if !expired(err) {
			return nil, err
		}
		e.log.Info("session expired", "endpoint", e.config.Name)
		old.Client.CloseIdleConnections()
	}
	ctx, cancel := context.WithTimeout(ctx, e.config.ConnectTimeout)
	defer cancel()
	return login(ctx, e.config)
}

// touch makes the cheapest call that needs a session.
func (e *Endpoint) touch(ctx context.Context, s *Session) error {
	ctx, cancel := context.WithTimeout(ctx, e.config.ConnectTimeout)
	defer cancel()
	_, err := methods.GetCurrentTime(ctx, s.Client)
	return err
}

// login connects and logs in.
func login(ctx context.Context, c Config) (_ *Session, err error) {
	transport, err := newSOAP(c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			transport.CloseIdleConnections()
		}
	}()
	client := &vim25.Client{Client: transport, RoundTripper: checked{transport}}
	if client.ServiceContent, err = methods.GetServiceContent(ctx, client.RoundTripper); err != nil {
		return nil, err
	}
	product, err := c.recognize(client.ServiceContent)
	if err != nil {
		return nil, err
	}
	user := url.UserPassword(c.User, string(c.Password))
	if err := session.NewManager(client).Login(ctx, user); err != nil {
		return nil, err
	}
	return &Session{Client: client, Product: product}, nil
}

// recognize says what product answers, and refuses one that is not what is configured or that the driver can't work with.
func (c Config) recognize(content types.ServiceContent) (Product, error) {
	about := content.About
	product, known := products[about.ApiType]
	if !known {
		return "", c.fail(verr.Internal, "%s is neither an ESX host nor a vCenter server, but %q (%s)", c.Address, about.ApiType, about.FullName)
	}
	if c.Product != "" && c.Product != product {
		return "", c.fail(verr.Internal, "%s is no %s endpoint, but %s (%s)", c.Address, c.Product, product, about.FullName)
	}
	if !atLeast(about.ApiVersion, minAPI) {
		return "", c.fail(verr.Internal, "%s has version %q of the API, %d.%d is the least that is needed",
			c.Address, about.ApiVersion, minAPI[0], minAPI[1])
	}
	if content.SessionManager == nil || content.ViewManager == nil {
		return "", c.fail(verr.Internal, "%s has no session or view manager (%s)", c.Address, about.FullName)
	}
	return product, nil
}

// atLeast compares the first two numbers of a version.
func atLeast(version string, least [2]int) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	first, err := strconv.Atoi(major)
	if err != nil {
		return false
	}
	second, err := strconv.Atoi(minor)
	if err != nil {
		second = 0
	}
	return first > least[0] || first == least[0] && second >= least[1]
}

// logout says farewell within its own time-out.
func (e *Endpoint) logout(ctx context.Context, s *Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
	defer cancel()
	if _, err := methods.Logout(ctx, s.Client, &types.Logout{This: *s.Client.ServiceContent.SessionManager}); err != nil {
		e.log.Debug("logout failed", "endpoint", e.config.Name, "error", err)
	}
	s.Client.CloseIdleConnections()
}

// pause returns the pause before the next attempt, and the base of the one after it.
func pause(base time.Duration, c Config, err error) (now, next time.Duration) {
	if refused(err) {
		return c.LoginBackoff, base
	}
	base = min(max(base, c.MinBackoff), c.MaxBackoff)
	return base/2 + rand.N(base/2+1), min(2*base, c.MaxBackoff)
}
