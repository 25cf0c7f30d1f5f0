package driver

import (
	"bufio"
	"context"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// mounted reports whether the pool's source is mounted at its target, as the kernel tells it (proc_pid_mountinfo(5)).
func mounted(p *define.Pool) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, storage.SystemError(err, "cannot read mounts")
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		point, source := parseMount(lines.Text())
		if point == p.Target.Path && same(source, p) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// parseMount returns mount point and source of a line of mountinfo.
func parseMount(line string) (point, source string) {
	left, right, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(left), strings.Fields(right)
	if !ok || len(fields) < 5 || len(rest) < 2 {
		return "", ""
	}
	return unescape(fields[4]), unescape(rest[1])
}

// unescape reads the kernel's octal escapes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// same reports whether a mounted source is the pool's. A device may be told by another of its names.
func same(source string, p *define.Pool) bool {
	want := p.Remote()
	if source == want || strings.TrimSuffix(source, "/") == strings.TrimSuffix(want, "/") {
		return true
	}
	if p.Type != define.FS {
		return false
	}
	var a, b unix.Stat_t
	if unix.Stat(source, &a) != nil || unix.Stat(want, &b) != nil {
		return false
	}
	return a.Mode&unix.S_IFMT == unix.S_IFBLK && a.Rdev == b.Rdev
}

// mount mounts the pool's source by mount(8), which knows the helpers of network file systems.
func mount(ctx context.Context, p *define.Pool) error {
	if err := command.Run(ctx, "mount", mountArguments(p)...); err != nil {
		return storage.Failed("cannot mount '%s' on '%s': %w", p.Remote(), p.Target.Path, err)
	}
	return nil
}

// mountArguments are those of mount(8). What a definition asks for comes after what keeps the machine safe from what is mounted.
func mountArguments(p *define.Pool) []string {
	args := []string{}
	if f := p.Source.Format.Type; f != "auto" {
		args = append(args, "-t", f)
	}
	opts := []string{"nodev", "nosuid", "noexec"}
	if p.Source.Protocol != nil && p.Source.Protocol.Version != "" {
		opts = append(opts, "nfsvers="+p.Source.Protocol.Version)
	}
	switch p.Source.Format.Type {
	case "cifs":
		opts = append(opts, "guest")
	case "glusterfs":
		opts = append(opts, "direct-io-mode=1")
	}
	if p.Mount != nil {
		for _, o := range p.Mount.Options {
			opts = append(opts, o.Name)
		}
	}
	return append(args, "-o", strings.Join(opts, ","), "--", p.Remote(), p.Target.Path)
}

func unmount(ctx context.Context, p *define.Pool) error {
	if err := command.Run(ctx, "umount", "--", p.Target.Path); err != nil {
		return storage.Failed("cannot unmount '%s': %w", p.Target.Path, err)
	}
	return nil
}
