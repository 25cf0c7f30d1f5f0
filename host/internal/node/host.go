package node

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what is read.
const (
	maxFile = 16 << 20
	// maxCPUs is above what any kernel supports.
	maxCPUs = 1 << 16
)

// Options are the injected facts.
type Options struct {
	// Root is the directory that holds proc and sys; "" means "/".
	Root string
	// UUID identifies the host in capabilities; "" takes the machine's own.
	UUID string
	// Hostname returns the host's name; nil asks the kernel.
	Hostname func() (string, error)
}

// Host is the machine.
type Host struct {
	root     string
	uuid     string
	hostname func() (string, error)
}

// New returns the machine below a root.
func New(opts Options) *Host {
	h := &Host{root: opts.Root, uuid: opts.UUID, hostname: opts.Hostname}
	if h.root == "" {
		h.root = "/"
	}
	if h.hostname == nil {
		h.hostname = os.Hostname
	}
	return h
}

// Hostname returns the host's name.
func (h *Host) Hostname() (string, error) {
	name, err := h.hostname()
	if err != nil {
		return "", fmt.Errorf("read host name: %w", err)
	}
	return name, nil
}

// arch is the machine's architecture by the kernel's name, which is also libvirt's.
func arch() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}

func (h *Host) path(elem ...string) string {
	return filepath.Join(append([]string{h.root}, elem...)...)
}

// read returns a file's text.
func (h *Host) read(elem ...string) (string, error) {
	f, err := os.Open(h.path(elem...))
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(data), err
}

// readLine returns a file's text without blanks around it, or "" where it cannot be read.
func (h *Host) readLine(elem ...string) string {
	text, err := h.read(elem...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(text)
}

// readInt returns a file's number, or the fallback.
func (h *Host) readInt(fallback int, elem ...string) int {
	n, err := strconv.Atoi(h.readLine(elem...))
	if err != nil {
		return fallback
	}
	return n
}

// readList returns a file's list of numbers, such as "0-3,8".
func (h *Host) readList(elem ...string) ([]int, error) {
	text, err := h.read(elem...)
	if err != nil {
		return nil, err
	}
	list, err := parseList(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", h.path(elem...), err)
	}
	return list, nil
}
