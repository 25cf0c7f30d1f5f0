package cmdline_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

const emulator = "/usr/bin/qemu-system-x86_64"

// machines asks QEMU for its machine types by their aliases.
func machines(t *testing.T) map[string]string {
	t.Helper()
	if _, err := os.Stat(emulator); err != nil {
		t.Skip("QEMU is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, emulator, "-machine", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, rest, _ := strings.Cut(line, " ")
		names[name] = name
		if _, alias, ok := strings.Cut(rest, "(alias of "); ok {
			names[name] = strings.TrimSuffix(strings.TrimSpace(alias), ")")
		}
	}
	return names
}

func build(t *testing.T, text string, env define.Env, dir string) *cmdline.Command {
	t.Helper()
	d, err := domxml.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := domxml.Complete(d); err != nil {
		t.Fatal(err)
	}
	if err := define.Complete(d, env); err != nil {
		t.Fatal(err)
	}
	c, err := cmdline.Build(d, cmdline.Plan{
		ID: 7, RuntimeDir: dir, StateDir: dir, LogDir: dir, Env: env, Ports: freePorts{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// freePorts asks the kernel, and stays in VNC's range.
type freePorts struct{}

func (freePorts) Allocate(_, address string) (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port >= 5900 {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port")
}

// prepare makes what a command says must exist.
func prepare(t *testing.T, c *cmdline.Command) {
	t.Helper()
	for _, f := range c.Folders {
		if err := os.MkdirAll(f, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range c.Copies {
		b, err := os.ReadFile(f.From)
		if err != nil {
			t.Skip(err)
		}
		if err := os.WriteFile(f.To, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range c.Helpers {
		path, err := exec.LookPath(h.Path)
		if err != nil {
			t.Skip(err)
		}
		cmd := exec.CommandContext(t.Context(), path, h.Args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		waitFor(t, h.Socket, nil)
	}
}

func waitFor(t *testing.T, path string, exited <-chan error) bool {
	t.Helper()
	for range 2000 {
		if _, err := os.Stat(path); err == nil {
			return true
		}
		select {
		case <-exited:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("%s did not appear", path)
	return false
}

// run starts QEMU, talks to it, and makes it quit; it returns the answers to the QMP commands.
func run(t *testing.T, c *cmdline.Command, commands ...string) []json.RawMessage {
	t.Helper()
	prepare(t, c)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), c.Path, c.Args...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if !waitFor(t, c.Monitor, exited) {
		t.Fatalf("QEMU refused its command line: %s\n%s", stderr.String(), strings.Join(c.Args, "\n"))
	}
	answers, err := talk(c.Monitor, append(commands, "quit"))
	if err != nil {
		cmd.Process.Kill()
		<-exited
		t.Fatalf("%v: %s\n%s", err, stderr.String(), strings.Join(c.Args, "\n"))
	}
	if err := <-exited; err != nil {
		t.Errorf("QEMU: %v: %s", err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if !strings.Contains(line, "terminating on signal") {
			t.Errorf("QEMU warns: %s", line)
		}
	}
	return answers
}

func talk(path string, commands []string) ([]json.RawMessage, error) {
	conn, err := net.Dial("unix", path)
	for tries := 0; errors.Is(err, syscall.ECONNREFUSED) && tries < 500; tries++ {
		time.Sleep(10 * time.Millisecond) // bound, and not listened on yet
		conn, err = net.Dial("unix", path)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	var answers []json.RawMessage
	in := bufio.NewReader(conn)
	for _, c := range append([]string{"qmp_capabilities"}, commands...) {
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", c); err != nil {
			return nil, err
		}
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c, err)
			}
			var m struct{ Return, Error json.RawMessage }
			if err := json.Unmarshal(line, &m); err != nil {
				return nil, err
			}
			if m.Error != nil {
				return nil, fmt.Errorf("%s: %s", c, m.Error)
			}
			if m.Return != nil {
				answers = append(answers, m.Return)
				break
			}
		}
	}
	return answers[1:], nil
}

// tcg makes a definition one that runs on any machine, with images that exist.
func tcg(t *testing.T, text, dir string) string {
	t.Helper()
	d := &libvirtxml.Domain{}
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	d.Type = "qemu"
	if d.CPU != nil && d.CPU.Mode == "host-passthrough" {
		d.CPU.Mode = "maximum"
	}
	d.Memory = &libvirtxml.DomainMemory{Value: 32, Unit: "MiB"}
	d.CurrentMemory = nil
	d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline = "", "", ""
	d.Devices.VSock = nil
	for i := range d.Devices.Graphics {
		if v := d.Devices.Graphics[i].VNC; v != nil && v.Port == 0 {
			v.AutoPort = "yes"
		}
	}
	for i := range d.Devices.Channels {
		if s := d.Devices.Channels[i].Source; s != nil && s.UNIX != nil {
			s.UNIX.Path = ""
		}
	}
	for i := range d.Devices.Disks {
		k := &d.Devices.Disks[i]
		if k.Device == "lun" {
			k.Device, k.Source = "disk", &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: "lun"}}
		}
		if k.Source == nil || k.Source.File == nil || k.Source.File.File == "" {
			continue
		}
		k.Source.File.File = filepath.Join(dir, k.Target.Dev+".img")
		image(t, k)
	}
	for i := range d.Devices.Serials {
		if s := d.Devices.Serials[i].Source; s != nil && s.TCP != nil {
			s.TCP.Mode, s.TCP.Host, s.TCP.Service = "bind", "127.0.0.1", "0"
		}
	}
	for i := range d.Devices.Filesystems {
		d.Devices.Filesystems[i].Source.Mount.Dir = dir
	}
	for i := range d.Devices.Interfaces {
		d.Devices.Interfaces[i].Source = &libvirtxml.DomainInterfaceSource{User: &libvirtxml.DomainInterfaceSourceUser{}}
	}
	s, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func image(t *testing.T, k *libvirtxml.DomainDisk) {
	t.Helper()
	if k.Driver == nil || k.Driver.Type == "" || k.Driver.Type == "raw" {
		if err := os.WriteFile(k.Source.File.File, make([]byte, 1440<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-f", k.Driver.Type, k.Source.File.File, "1M").CombinedOutput()
	if err != nil {
		t.Skipf("qemu-img: %v: %s", err, out)
	}
}

func qemuEnv(t *testing.T) define.Env {
	return define.Env{
		Emulator: emulator, Arch: "x86_64", DefaultMachine: "pc", KVM: true, Machines: machines(t),
		Firmware: []define.Firmware{{
			Interfaces: []string{"uefi"}, Executable: "/usr/share/OVMF/OVMF_CODE_4M.fd", Format: "raw",
			NVRAMTemplate: "/usr/share/OVMF/OVMF_VARS_4M.fd", NVRAMFormat: "raw",
			Machines: map[string][]string{"x86_64": {"pc-i440fx-*", "pc-q35-*"}},
		}},
	}
}

// shortDir returns a folder whose name leaves room for names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestQEMUAcceptsCompletedDefinitions(t *testing.T) {
	env := qemuEnv(t)
	inputs, err := filepath.Glob("../define/testdata/*.in.xml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no definitions", err)
	}
	for _, in := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.xml"), func(t *testing.T) {
			text, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			dir := shortDir(t)
			run(t, build(t, tcg(t, string(text), dir), env, dir))
		})
	}
}
