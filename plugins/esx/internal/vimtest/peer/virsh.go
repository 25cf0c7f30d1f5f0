package peer

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Virsh is libvirt's client with its own ESX driver, aimed at an endpoint.
type Virsh struct {
	command, uri, auth string
}

// NewVirsh aims libvirt's client at an endpoint on this machine, whose certificate it takes for good. The password is kept in a file in
// dir. It fails if the client is not installed.
func NewVirsh(dir, address, user, password string) (*Virsh, error) {
	command, err := exec.LookPath("virsh")
	if err != nil {
		return nil, fmt.Errorf("find libvirt's client: %w", err)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("aim libvirt's client: %w", err)
	}
	v := &Virsh{command: command, uri: "esx://" + address + "/?no_verify=1", auth: filepath.Join(dir, "auth.conf")}
	text := fmt.Sprintf("[credentials-x]\nusername=%s\npassword=%s\n[auth-esx-%s]\ncredentials=x\n", user, password, host)
	if err := os.WriteFile(v.auth, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("aim libvirt's client: %w", err)
	}
	return v, nil
}

// Run runs a command of the client and returns what it prints. Its warnings about properties that it does not know are left out.
func (v *Virsh) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, v.command, append([]string{"-c", v.uri}, args...)...)
	cmd.Env = append(os.Environ(), "LIBVIRT_AUTH_FILE="+v.auth, "LIBVIRT_LOG_OUTPUTS=4:stderr", "LC_ALL=C")
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, failure.String())
	}
	return out.String(), nil
}
