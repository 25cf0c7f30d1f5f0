package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/capabilities"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/image"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// monitorFD is the number under which QEMU inherits the monitor's socket: the first of its files.
const monitorFD = 3

// build turns the definition into a command, and reserves the ports that it names until the start has ended.
func (s *start) build(ctx context.Context, def *libvirtxml.Domain) (*cmdline.Command, error) {
	b, err := s.driver.emulator(ctx, def)
	if err != nil {
		return nil, err
	}
	env := s.driver.envs.of(b)
	env.Firmware = s.driver.firmware()
	settings := s.driver.core.Settings()
	plan := cmdline.Plan{
		ID: int(s.req.GetId()), RuntimeDir: s.life.folder.path(ownName), StateDir: settings.StateDir, LogDir: settings.LogDir,
		Env: env, HostModel: hostModel(def, b), Ports: &s.ports, Images: images{}, MonitorFD: monitorFD,
		Secret: secretsOf(s.req.GetResolved().GetDisks()),
	}
	if plan.TapFDs, err = s.openTaps(def); err != nil {
		return nil, err
	}
	plan.KeyFD = monitorFD + len(s.files)
	cmd, err := cmdline.Build(def, plan)
	if err == nil && cmd.SecretKey != nil {
		err = s.handKey(cmd.SecretKey)
		cmd.SecretKey = nil
	}
	return cmd, err
}

// handKey lets QEMU read the key of its secrets, once.
func (s *start) handKey(key []byte) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("hand key of secrets to QEMU: %w", err)
	}
	defer ours.Close()
	s.files = append(s.files, theirs)
	if owner := s.label.owner; owner != nil {
		if err := theirs.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return fmt.Errorf("hand key of secrets to QEMU: %w", err)
		}
	}
	if _, err := ours.Write(key); err != nil {
		return fmt.Errorf("hand key of secrets to QEMU: %w", err)
	}
	return nil
}

// hostModel is what CPU mode host-model stands for, or nil where QEMU has to choose.
func hostModel(def *libvirtxml.Domain, b *probe.Binary) *libvirtxml.DomainCPU {
	if def.CPU == nil || def.CPU.Mode != "host-model" || !b.Native(runtime.GOARCH) {
		return nil
	}
	model, ok := capabilities.HostModel(b, def.Type)
	if !ok {
		return nil
	}
	cpu := &libvirtxml.DomainCPU{
		Mode: "custom", Match: "exact", Check: "partial", Vendor: model.Vendor,
		Model: &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: model.Model},
	}
	for policy, names := range map[string][]string{"require": model.Require, "disable": model.Disable} {
		for _, name := range names {
			cpu.Features = append(cpu.Features, libvirtxml.DomainCPUFeature{Policy: policy, Name: name})
		}
	}
	return cpu
}

// images reads images for package cmdline.
type images struct{}

// Backing implements cmdline.Images.
func (images) Backing(path, format string) (*cmdline.Backing, error) {
	b, err := image.ReadBacking(path, format)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, verr.New(verr.SystemError, "Cannot access storage file: %w", err)
	case err != nil:
		return nil, verr.New(verr.OperationFailed, "%w", err)
	case b == nil:
		return nil, nil
	}
	info, err := os.Stat(b.Path)
	if err != nil {
		return nil, verr.New(verr.SystemError, "Cannot access backing file of storage file '%s': %w", path, err)
	}
	return &cmdline.Backing{Path: b.Path, Format: b.Format, Block: info.Mode()&fs.ModeDevice != 0}, nil
}

// furnish makes what the command needs beside QEMU.
func (s *start) furnish(ctx context.Context, owner *process.Owner) error {
	for _, dir := range s.cmd.Folders {
		if err := s.makeFolder(dir, owner); err != nil {
			return err
		}
	}
	for _, c := range s.cmd.Copies {
		if err := copyFile(c.From, c.To); err != nil {
			return fmt.Errorf("make %q from its template: %w", c.To, err)
		}
	}
	if _, err := s.life.giveFiles(s.label, targets(s.cmd.Live)); err != nil {
		return err
	}
	for _, h := range s.cmd.Helpers {
		if err := s.makeLog(h, owner); err != nil {
			return err
		}
		if err := s.help(ctx, h, owner); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes a folder. One that has the guest's name in its path is its user's, one that all guests share can only be passed.
func (s *start) makeFolder(dir string, owner *process.Owner) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make folder for guest: %w", err)
	}
	if !strings.Contains(dir, s.life.ref.GetUuid()) {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make folder for guest: %w", err)
	}
	return give(owner, dir)
}

// makeLog makes the log that a helper can't make itself, being another user.
func (s *start) makeLog(h cmdline.Helper, owner *process.Owner) error {
	if owner == nil {
		return nil
	}
	path := filepath.Join(s.driver.core.Settings().LogDir, s.life.ref.GetUuid()+"-"+h.Name+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("make log of %s: %w", h.Name, err)
	}
	return errors.Join(f.Chown(int(owner.UID), int(owner.GID)), f.Close())
}

// maxTemplate bounds a template for a guest's own file, in bytes.
const maxTemplate = 256 << 20

// copyFile makes a file from a template, whole or not at all, unless it exists.
func copyFile(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, io.LimitReader(in, maxTemplate))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Link(out.Name(), to)
}

// Waits for a helper to listen.
const (
	helperTime  = 10 * time.Second
	helperPause = 2 * time.Millisecond
)

// help starts a helper, and waits until it listens.
func (s *start) help(ctx context.Context, h cmdline.Helper, owner *process.Owner) error {
	path, err := exec.LookPath(h.Path)
	if err != nil {
		return verr.New(verr.OperationUnsupported, "the domain needs %s, which is not installed: %w", h.Name, err)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	s.life.helped = true
	if err := s.life.folder.write(helpersName, nil); err != nil {
		return err
	}
	p, _, err := process.Launch(ctx, process.Spec{
		Marker: s.life.helperMarker(), Path: path, Args: h.Args, Env: s.environment(), Dir: string(s.life.folder),
		CgroupFiles: s.group(), Owner: owner, Log: s.log,
	})
	if err != nil {
		return verr.New(verr.Internal, "%s did not start: %w", h.Name, err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	for {
		if _, err := os.Stat(h.Socket); err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return verr.New(verr.Internal, "%s ended at once: %s", h.Name, process.Tail(s.log, s.said, maxWords))
		case <-ctx.Done():
			return verr.New(verr.OperationTimeout, "%s does not listen: %w", h.Name, ctx.Err())
		case <-time.After(helperPause):
		}
	}
}

// setup is what QEMU is told by its monitor before the guest runs: secrets, which must not be in the arguments, and what has no
// argument.
func setup(c *cmdline.Command) []*qmp.Command {
	var cmds []*qmp.Command
	add := func(name string, args map[string]any) { cmds = append(cmds, &qmp.Command{Name: name, Args: args}) }
	for _, p := range c.Passwords {
		args := map[string]any{"protocol": p.Protocol, "password": p.Password}
		if p.Connected != "" {
			args["connected"] = p.Connected
		}
		add("set_password", args)
		if p.ValidTo != "" {
			add("expire_password", map[string]any{"protocol": p.Protocol, "time": p.ValidTo})
		}
	}
	for _, alias := range c.LinksDown {
		add("set_link", map[string]any{"name": alias, "up": false})
	}
	if c.BalloonPeriod > 0 {
		add("qom-set", map[string]any{"path": balloonPath, "property": "guest-stats-polling-interval", "value": c.BalloonPeriod})
	}
	if c.BalloonKiB > 0 {
		add("balloon", map[string]any{"value": c.BalloonKiB << 10})
	}
	return cmds
}
