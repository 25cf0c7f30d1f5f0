package driver

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// figuresOf measures a guest in all groups and returns the names.
func (r *rig) figuresOf(ctx context.Context) map[string]*pb.Stat {
	r.t.Helper()
	stats, err := r.driver.GuestStats(ctx, &pb.GuestHandle{Guest: r.guest}, 0xff)
	if err != nil {
		r.t.Fatal(err)
	}
	named := map[string]*pb.Stat{}
	for _, s := range stats {
		named[s.GetName()] = s
	}
	return named
}

func TestFiguresScreenAndKeys(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, `<disk type='file'><driver name='qemu' type='raw'/><source file='`+image+`'/><target dev='vda' bus='virtio'/></disk>
		<video><model type='vga'/></video>`)
	r.start(true)
	figures := r.figuresOf(t.Context())
	for name, want := range map[string]uint64{
		"balloon.current": 16384, "balloon.maximum": 16384, "block.0.capacity": 1 << 20, "block.0.physical": 1 << 20, "block.0.rd.bytes": 0,
	} {
		if s := figures[name]; s == nil || s.GetUllong() != want {
			t.Errorf("%s is %v, want %d", name, s, want)
		}
	}
	if figures["cpu.time"].GetUllong() == 0 || figures["block.0.name"].GetString_() != "vda" || figures["vcpu.maximum"].GetUint() != 1 {
		t.Errorf("figures are %v", figures)
	}
	mime, picture, err := r.driver.Screenshot(t.Context(), &pb.ScreenshotRequest{Guest: r.guest})
	if err != nil {
		t.Fatal(err)
	}
	defer picture.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(picture, head); err != nil || !bytes.Equal(head, []byte("P6")) || !strings.Contains(mime, "pixmap") {
		t.Errorf("picture begins with %q, %v, and is %s", head, err, mime)
	}
	if _, _, err := r.driver.Screenshot(t.Context(), &pb.ScreenshotRequest{Guest: r.guest, Screen: 9}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("screen 9: %v", err)
	}
	if _, err := r.driver.SendKey(t.Context(), &pb.SendKeyRequest{Guest: r.guest, Keycodes: []uint32{29, 56, 111}}); err != nil {
		t.Error(err)
	}
	if _, err := r.driver.SendKey(t.Context(), &pb.SendKeyRequest{Guest: r.guest, Keycodes: []uint32{500}}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("key 500: %v", err)
	}
	r.stop()
}

func TestStuckQEMUIsMeasuredByTheKernel(t *testing.T) {
	r := newRig(t, "")
	handle := r.start(true).GetHandle()
	p, err := process.Open(process.ID{PID: int(handle.GetPid()), StartTime: handle.GetStartTime()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	if figures := r.figuresOf(ctx); figures["cpu.time"] == nil || figures["balloon.rss"] == nil {
		t.Errorf("figures are %v", figures)
	}
	r.stop()
}

func TestKeysOfLinuxAreThoseOfPCKeyboards(t *testing.T) {
	for _, c := range []struct {
		name           string
		set, code, key uint32
	}{
		{"a", codesLinux, 30, 30},
		{"right control", codesLinux, 97, 0x9d},
		{"delete", codesLinux, 111, 0xd3},
		{"a by its XT code", codesXT, 30, 30},
		{"up by its number", codesQnum, 0xc8, 0xc8},
	} {
		if got, err := keyNumber(c.set, c.code); err != nil || got != c.key {
			t.Errorf("%s is %#x, %v", c.name, got, err)
		}
	}
	if _, err := keyNumber(7, 30); !verr.Is(err, verr.ArgumentUnsupported) {
		t.Errorf("set 7: %v", err)
	}
}

func TestTimesComeAfterANameOfAnyKind(t *testing.T) {
	got, err := parseTimes("17 (a) b) S" + strings.Repeat(" 1", 10) + " 300 20 0 0")
	if err != nil || got.user != 300*clockTick || got.system != 20*clockTick {
		t.Errorf("times are %v, %v", got, err)
	}
}

func FuzzParseTimes(f *testing.F) {
	f.Add("17 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13")
	f.Fuzz(func(_ *testing.T, stat string) { _, _ = parseTimes(stat) })
}
