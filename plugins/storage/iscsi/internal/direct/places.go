package direct

import (
	"context"
	"fmt"
	"sync"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
)

// placesEach is how many sessions there may be at one server at once; each holds a thread while it waits.
const placesEach = 8

// places are those of all servers that are in use.
type places struct {
	mu  sync.Mutex // guards all below; not held while somebody waits
	all map[string]*place
}

// place is one server's.
type place struct {
	users int
	taken chan struct{}
}

// enter waits for a place at a server.
func (p *places) enter(ctx context.Context, portal string) (leave func(), err error) {
	p.mu.Lock()
	if p.all == nil {
		p.all = map[string]*place{}
	}
	at := p.all[portal]
	if at == nil {
		at = &place{taken: make(chan struct{}, placesEach)}
		p.all[portal] = at
	}
	at.users++
	p.mu.Unlock()
	select {
	case at.taken <- struct{}{}:
		return func() {
			<-at.taken
			p.forget(portal, at)
		}, nil
	case <-ctx.Done():
		p.forget(portal, at)
		return nil, fmt.Errorf("%w: %d sessions wait for it already: %w", initiator.ErrTimeout, placesEach, ctx.Err())
	}
}

// forget drops a server that nobody uses any more.
func (p *places) forget(portal string, at *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.users--; at.users == 0 {
		delete(p.all, portal)
	}
}
