package guests

import (
	"context"
	"net/url"
	"strings"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxPicture is the largest picture of a screen that is read, in bytes.
const maxPicture = 64 << 20

// Screenshot reads the picture of a guest's screen from its host.
func (g *Guests) Screenshot(ctx context.Context, guest *hv.Guest, screen uint32) (kind string, picture []byte, err error) {
	vm, err := g.find(guest)
	if err != nil {
		return "", nil, err
	}
	if screen != 0 {
		return "", nil, failed(verr.InvalidArg, "Screen cannot be selected")
	}
	if err := inState(vm, []hv.State{hv.State_STATE_RUNNING}, "Domain is not powered on"); err != nil {
		return "", nil, err
	}
	kind, picture, err = g.endpoint.Fetch(ctx, "/screen", url.Values{"id": {vm.Ref.Value}}, maxPicture)
	if err != nil {
		return "", nil, explain("read the screen of domain '"+guest.GetName()+"'", err)
	}
	if kind == "" || !strings.HasPrefix(kind, "image/") {
		kind = "image/png"
	}
	return kind, picture, nil
}

// vmxName is a guest's name as the hypervisor shows it.
func vmxName(name string) string { return vmx.EscapeName(name) }
