package driver

import (
	"reflect"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
)

// endpoints are the endpoints that are open. Connections to several hosts of one vCenter server share a session, and a password that is
// refused is tried once and not once for each of them.
type endpoints struct {
	mu   sync.Mutex // guards all below; not held while an endpoint is closed
	open []*shared
}

// shared is an endpoint with its users.
type shared struct {
	config   endpoint.Config
	endpoint *endpoint.Endpoint
	users    int
}

// get returns the endpoint of a configuration. The caller must call release, which closes it after its last user.
func (e *endpoints) get(config endpoint.Config, log hclog.Logger) (_ *endpoint.Endpoint, release func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := slices.IndexFunc(e.open, func(s *shared) bool { return reflect.DeepEqual(s.config, config) })
	if at < 0 {
		made, err := endpoint.Open(config, log)
		if err != nil {
			return nil, nil, err
		}
		e.open = append(e.open, &shared{config: config, endpoint: made})
		at = len(e.open) - 1
	}
	s := e.open[at]
	s.users++
	return s.endpoint, sync.OnceFunc(func() { e.release(s) }), nil
}

// release ends a use.
func (e *endpoints) release(s *shared) {
	e.mu.Lock()
	s.users--
	last := s.users == 0
	if last {
		e.open = slices.DeleteFunc(e.open, func(o *shared) bool { return o == s })
	}
	e.mu.Unlock()
	if last {
		s.endpoint.Close()
	}
}
