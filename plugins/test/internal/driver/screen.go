package driver

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"io"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// The size of the pretended screen.
const screenWidth, screenHeight = 160, 100

// colors of the screen by state.
var colors = map[pb.State]color.RGBA{
	pb.State_STATE_RUNNING: {R: 0x20, G: 0x60, B: 0xa0, A: 0xff},
	pb.State_STATE_PAUSED:  {R: 0x80, G: 0x80, B: 0x80, A: 0xff},
}

// Screenshot paints the only screen in the colour of the guest's state, with its name's bytes as stripes.
func (d *Driver) Screenshot(ctx context.Context, req *pb.ScreenshotRequest) (string, io.ReadCloser, error) {
	g, err := d.find(req.GetGuest())
	if err != nil {
		return "", nil, err
	}
	if req.GetScreen() != 0 {
		return "", nil, verr.New(verr.InvalidArg, "guest has no screen %d", req.GetScreen())
	}
	if err := d.pass(ctx, g, "screenshot"); err != nil {
		return "", nil, err
	}
	r := g.snapshot()
	ground := colors[r.State]
	picture := image.NewRGBA(image.Rect(0, 0, screenWidth, screenHeight))
	for y := range screenHeight {
		paint := ground
		if row := y / 2; row < len(r.Name) {
			paint.G = r.Name[row]
		}
		for x := range screenWidth {
			picture.SetRGBA(x, y, paint)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		return "", nil, verr.New(verr.Internal, "paint screen: %w", err)
	}
	return "image/png", io.NopCloser(&b), nil
}
