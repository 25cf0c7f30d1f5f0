package driver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
)

// maxWords bounds what of a program's own words goes into an error, in bytes.
const maxWords = 1024

// mounted reports whether the pool's source is mounted at its target, as the kernel tells it (proc_pid_mountinfo(5)).
func mounted(p *define.Pool) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, system(err, "cannot read mounts")
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
	args := []string{}
	if f := p.Source.Format.Type; f != "auto" {
		args = append(args, "-t", f)
	} else if p.Type == define.NetFS {
		args = append(args, "-t", "nfs")
	}
	var opts []string
	if p.Source.Protocol != nil && p.Source.Protocol.Version != "" {
		opts = append(opts, "nfsvers="+p.Source.Protocol.Version)
	}
	if p.Source.Format.Type == "cifs" {
		opts = append(opts, "guest")
	}
	if p.Options != nil {
		for _, o := range p.Options.Options {
			opts = append(opts, o.Name)
		}
	}
	opts = append(opts, "nodev", "nosuid", "noexec")
	args = append(args, "-o", strings.Join(opts, ","), "--", p.Remote(), p.Target.Path)
	if err := command(ctx, "mount", args...); err != nil {
		return failed("cannot mount '%s' on '%s': %w", p.Remote(), p.Target.Path, err)
	}
	return nil
}

func unmount(ctx context.Context, p *define.Pool) error {
	if err := command(ctx, "umount", "--", p.Target.Path); err != nil {
		return failed("cannot unmount '%s': %w", p.Target.Path, err)
	}
	return nil
}

// command runs a program to its end, and tells its own words where it fails.
func command(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output runs a program and returns what it prints, at most 4 MiB.
func output(ctx context.Context, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) || err != nil {
		return "", fmt.Errorf("%s is not installed", name)
	}
	cmd := exec.CommandContext(ctx, filepath.Clean(path), args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = 2 * time.Second
	out, words := &bounded{limit: 4 << 20}, &bounded{limit: maxWords}
	cmd.Stdout, cmd.Stderr = out, words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("%s: %w", name, ctx.Err())
		}
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(words.text.String()))
	}
	return out.text.String(), nil
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	text  strings.Builder
	limit int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	b.text.Write(p[:min(len(p), max(0, b.limit-b.text.Len()))])
	return len(p), nil
}
