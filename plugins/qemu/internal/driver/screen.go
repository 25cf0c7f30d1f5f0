package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var (
	_ hypervisor.Screenshooter = (*Driver)(nil)
	_ hypervisor.Keyboard      = (*Driver)(nil)
)

// Screenshot implements hypervisor.Screenshooter. QEMU writes the picture into the guest's folder; the file has no name any more by the time
// that it is read.
func (d *Driver) Screenshot(ctx context.Context, req *pb.ScreenshotRequest) (string, io.ReadCloser, error) {
	l, g, err := d.living(req.GetGuest())
	if err != nil {
		return "", nil, err
	}
	args, err := l.screen(req.GetScreen())
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp(string(l.folder), "screen-*.ppm")
	if err != nil {
		return "", nil, fmt.Errorf("make file for screenshot: %w", err)
	}
	defer os.Remove(f.Name())
	args["filename"] = f.Name()
	err = l.giveTo(f)
	if err == nil {
		if err = g.Query(ctx, &qmp.Command{Name: "screendump", Args: args}); err != nil {
			err = guest.Explain(ctx, "screendump", err)
		}
	}
	if err != nil {
		return "", nil, errors.Join(err, f.Close())
	}
	return "image/x-portable-pixmap", f, nil
}

// screen finds the video device with the head that is meant. Screens are numbered through all devices, as libvirt does.
func (l *life) screen(number uint32) (map[string]any, error) {
	n := int(number)
	if dev := l.live().Devices; dev != nil {
		for i := range dev.Videos {
			v := &dev.Videos[i]
			heads := max(1, int(v.Model.Heads))
			if v.Model.Type == "none" || v.Alias == nil {
				continue
			}
			if n < heads {
				return map[string]any{"device": v.Alias.Name, "head": n}, nil
			}
			n -= heads
		}
	}
	if number == 0 {
		return nil, verr.New(verr.OperationInvalid, "no screens to take screenshot from")
	}
	return nil, verr.New(verr.InvalidArg, "no such screen")
}

// giveTo lets the guest's QEMU write into a file of ours.
func (l *life) giveTo(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Stat(l.folder.path(ownName), &st); err != nil {
		return fmt.Errorf("give file to qemu: %w", err)
	}
	if int(st.Uid) == os.Geteuid() {
		return nil
	}
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("give file to qemu: %w", err)
	}
	return nil
}

// Bounds and defaults of SendKey, as libvirt has them.
const (
	maxKeys     = 16
	defaultHold = 100
)

// Key code sets, numbered by libvirt's virKeycodeSet, whose codes can be sent. QEMU takes the codes of the set of PC keyboards ("qnum"),
// which is that of Linux for the keys up to 88 (linux/input-event-codes.h was laid out so).
const (
	codesLinux = 0
	codesXT    = 1
	codesQnum  = 9
)

// linuxExtended are QEMU's numbers of Linux's codes above the common ones: 0x80 is the prefix 0xe0 of PC keyboards.
var linuxExtended = map[uint32]uint32{
	96: 0x9c, 97: 0x9d, 98: 0xb5, 99: 0x54, 100: 0xb8, 102: 0xc7, 103: 0xc8, 104: 0xc9, 105: 0xcb, 106: 0xcd, 107: 0xcf,
	108: 0xd0, 109: 0xd1, 110: 0xd2, 111: 0xd3, 113: 0xa0, 114: 0xae, 115: 0xb0, 116: 0xde, 117: 0x59, 119: 0xc6, 121: 0x7e,
	125: 0xdb, 126: 0xdc, 127: 0xdd,
}

// SendKey implements hypervisor.Keyboard.
func (d *Driver) SendKey(ctx context.Context, req *pb.SendKeyRequest) (*pb.SendKeyResponse, error) {
	_, g, err := d.living(req.GetGuest())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetKeycodes()); n == 0 || n > maxKeys {
		return nil, verr.New(verr.InvalidArg, "%d keys: between 1 and %d are possible", n, maxKeys)
	}
	var keys []map[string]any
	for _, code := range req.GetKeycodes() {
		number, err := keyNumber(req.GetCodeset(), code)
		if err != nil {
			return nil, err
		}
		keys = append(keys, map[string]any{"type": "number", "data": number})
	}
	hold := req.GetHoldMs()
	if hold == 0 {
		hold = defaultHold
	}
	err = g.Query(ctx, &qmp.Command{Name: "send-key", Args: map[string]any{"keys": keys, "hold-time": hold}})
	if err != nil {
		return nil, guest.Explain(ctx, "send-key", err)
	}
	return &pb.SendKeyResponse{}, nil
}

// keyNumber translates a key code to QEMU's.
func keyNumber(set, code uint32) (uint32, error) {
	const lastCommon, largest = 88, 0xff
	switch {
	case set != codesLinux && set != codesXT && set != codesQnum:
		return 0, verr.New(verr.ArgumentUnsupported, "key codes of set %d are not supported", set)
	case code == 0 || code > largest:
	case set == codesQnum || code <= lastCommon:
		return code, nil
	case set == codesLinux && linuxExtended[code] != 0:
		return linuxExtended[code], nil
	}
	return 0, verr.New(verr.InvalidArg, "cannot translate keycode %d of set %d to rfb keycode", code, set)
}

// InjectNMI implements hypervisor.Keyboard.
func (d *Driver) InjectNMI(ctx context.Context, req *pb.InjectNMIRequest) (*pb.InjectNMIResponse, error) {
	_, g, err := d.living(req.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := g.Query(ctx, &qmp.Command{Name: "inject-nmi"}); err != nil {
		return nil, guest.Explain(ctx, "inject-nmi", err)
	}
	return &pb.InjectNMIResponse{}, nil
}
