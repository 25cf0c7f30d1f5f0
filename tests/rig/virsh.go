package rig

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// URI is the URI by which a stock client reaches a connection of the host: "qemu:///system" becomes
// "qemu+unix:///system?socket=DIR/run/libvirt-sock".
func (h *Host) URI(canonical string) string {
	scheme, path, _ := strings.Cut(canonical, ":///")
	return fmt.Sprintf("%s+unix:///%s?socket=%s", scheme, path, url.PathEscape(h.Socket()))
}

// Virsh runs stock virsh on a connection of the host and returns what it prints. The error holds what it says.
func (h *Host) Virsh(ctx context.Context, canonical string, args ...string) (string, error) {
	return Run(ctx, "virsh", append([]string{"-q", "-c", h.URI(canonical)}, args...)...)
}

// Command is a command in the C locale, to be started.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "LIBVIRT_AUTOSTART=0")
	return cmd
}

// Run runs a command in the C locale and returns what it prints. The error holds what it says on standard error.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Dial opens a connection of the host with go-libvirt. The caller disconnects it.
func (h *Host) Dial(canonical string) (*libvirt.Libvirt, error) {
	client := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(h.Socket()), dialers.WithLocalTimeout(10*time.Second)))
	if err := client.ConnectToURI(libvirt.ConnectURI(canonical)); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", canonical, err)
	}
	return client, nil
}
