package driver

import (
	"context"
	"net"
	"strconv"
	"sync"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// firstPorts are where libvirt looks for free ports, by service; all ranges end at the last port.
var firstPorts = map[string]int{"vnc": 5900, "vnc-websocket": 5700, "spice": 5900}

const lastPort = 65535

// ports are the ports that starts under way have been promised, so that no two get the same before QEMU listens.
type ports struct {
	mu    sync.Mutex // guards taken
	taken map[int]bool
}

// promise is the ports of one start. It implements cmdline.Ports.
type promise struct {
	of   *ports
	mine []int
}

var _ cmdline.Ports = (*promise)(nil)

// Allocate implements cmdline.Ports.
func (p *promise) Allocate(service, address string) (int, error) {
	first, ok := firstPorts[service]
	if !ok {
		return 0, verr.New(verr.Internal, "no ports are known for %s", service)
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	for port := first; port <= lastPort; port++ {
		if p.of.taken[port] || !free(address, port) {
			continue
		}
		p.of.taken[port] = true
		p.mine = append(p.mine, port)
		return port, nil
	}
	return 0, verr.New(verr.Internal, "Unable to find an unused port in range '%s' (%d-%d)", service, first, lastPort)
}

// free reports whether a port can be listened on.
func free(address string, port int) bool {
	// Binding does not wait, so there is nothing for a context to end.
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// release gives the ports up: QEMU listens on them, or the start has failed.
func (p *promise) release() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	for _, port := range p.mine {
		delete(p.of.taken, port)
	}
	p.mine = nil
}
