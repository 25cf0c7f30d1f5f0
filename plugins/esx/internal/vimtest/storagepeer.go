package vimtest

import (
	"net/http/httptest"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
)

// ForLibvirt opens another way to the server, beside the gate, that libvirt's own ESX driver can use, and returns its address.
func (s *Server) ForLibvirt() string {
	s.t.Helper()
	front := httptest.NewUnstartedServer(peer.Handler(s.Spoiler.next))
	front.Config.ErrorLog = discard()
	front.StartTLS()
	s.t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}
