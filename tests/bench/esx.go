package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
	"github.com/lodgevirt/lodge/tests/wire"
)

const (
	// esxSync bounds the first reading of a host.
	esxSync = time.Minute
	// esxCall bounds a command of virsh: libvirt's driver needs a quarter of a minute for the titles of 1000 machines.
	esxCall = 2 * time.Minute
	// esxURI is the connection of ours.
	esxURI = "esx:///sim"
)

// measureESX measures our ESX driver and libvirt's own on one simulated host of each size.
func measureESX(ctx context.Context, only, bin, scratch string, p plan) ([]*result, error) {
	ours, theirs := newResult("lodged"), newResult("libvirt's own driver")
	var results []*result
	_, missing := os.Stat(filepath.Join(bin, "plugins", "esx.toml"))
	switch {
	case only == "libvirtd":
	case missing != nil:
		fmt.Fprintln(os.Stderr, "measuring theirs alone: the ESX driver is not built:", missing)
	default:
		results = append(results, ours)
	}
	if only != "lodged" {
		results = append(results, theirs)
	}
	var errs []error
	for _, machines := range p.machines {
		m := &esxMeter{plan: p, machines: machines, dir: filepath.Join(scratch, fmt.Sprintf("e%d", machines))}
		err := m.run(ctx, bin, func() error {
			for _, m.r = range results {
				progress(os.Stderr, "%s: ESX host with %d machines", m.r.name, machines)
				measure := m.theirs
				if m.r == ours {
					measure = func(ctx context.Context) error { return m.ours(ctx, bin) }
				}
				if err := measure(ctx); err != nil {
					return fmt.Errorf("measure %s with %d machines: %w", m.r.name, machines, err)
				}
			}
			return nil
		})
		errs = append(errs, err)
	}
	return results, errors.Join(errs...)
}

// esxMeter measures one driver after the other with one host.
type esxMeter struct {
	plan     plan
	r        *result
	machines int
	dir      string
	host     *rig.Vim
}

// run starts a host for measurements and ends it.
func (m *esxMeter) run(ctx context.Context, bin string, measure func() error) (err error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir)) }()
	// It is good enough for libvirt's own driver.
	m.host, err = rig.StartVim(ctx, filepath.Join(bin, "vimsim"), "-peer", fmt.Sprintf("-machines=%d", m.machines))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.host.Close()) }()
	return measure()
}

// esxClient is virsh aimed at a driver.
type esxClient struct {
	uri string
	env []string
}

// run runs a command, and returns what it prints, how long it took and how much memory it had.
func (c esxClient) run(ctx context.Context, args ...string) (out string, took time.Duration, mib float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, esxCall)
	defer cancel()
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", c.uri}, args...)...)
	// Libvirt's driver warns of properties that it does not know, thousands of times.
	cmd.Env = append(os.Environ(), "LIBVIRT_LOG_OUTPUTS=4:stderr", "LC_ALL=C.UTF-8", "LIBVIRT_AUTOSTART=0")
	cmd.Env = append(cmd.Env, c.env...)
	var text, failure strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &failure
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	if err != nil {
		return "", took, 0, fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, failure.String())
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		mib = float64(usage.Maxrss) / 1024
	}
	return text.String(), took, mib, nil
}

// theirs measures libvirt's own driver, which is a part of the client and asks the host for everything each time.
func (m *esxMeter) theirs(ctx context.Context) error {
	auth := filepath.Join(m.dir, "auth.conf")
	text := fmt.Sprintf("[credentials-x]\nusername=%s\npassword=%s\n[auth-esx-127.0.0.1]\ncredentials=x\n", m.host.User, m.host.Password)
	if err := os.WriteFile(auth, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	c := esxClient{uri: "esx://" + m.host.Address + "/?no_verify=1", env: []string{"LIBVIRT_AUTH_FILE=" + auth}}
	return m.commands(ctx, c)
}

// commands measures whole commands of virsh.
func (m *esxMeter) commands(ctx context.Context, c esxClient) error {
	names, _, _, err := c.run(ctx, "list", "--all", "--name")
	if err != nil {
		return err
	}
	all := strings.Fields(names)
	if len(all) != m.machines {
		return fmt.Errorf("%d machines are listed, want %d", len(all), m.machines)
	}
	one := all[len(all)/2]
	for _, command := range []struct {
		args []string
		// wanted is how many lines the answer has at least.
		wanted int
	}{
		{[]string{"version"}, 1},
		{[]string{"list", "--all", "--name"}, m.machines},
		{[]string{"list", "--all"}, m.machines},
		{[]string{"list", "--all", "--title"}, m.machines},
		{[]string{"dominfo", one}, 5},
		{[]string{"dumpxml", one}, 10},
	} {
		var times []time.Duration
		var most float64
		for range m.plan.repeat {
			out, took, mib, err := c.run(ctx, command.args...)
			if err != nil {
				return err
			}
			if lines := strings.Count(out, "\n"); lines < command.wanted {
				return fmt.Errorf("virsh %s: %d lines are less than %d", strings.Join(command.args, " "), lines, command.wanted)
			}
			times, most = append(times, took), max(most, mib)
			if took > esxCall/10 {
				break // one is enough
			}
		}
		what := strings.Replace(strings.Join(command.args, " "), one, "NAME", 1)
		m.r.time(fmt.Sprintf("virsh %s, %d machines", what, m.machines), median(times))
		if strings.HasSuffix(what, "--title") {
			m.r.size(fmt.Sprintf("largest memory of that virsh, %d machines", m.machines), most)
		}
	}
	return nil
}

// ours measures our driver: the first reading of the host, then what the daemon answers from memory.
func (m *esxMeter) ours(ctx context.Context, bin string) (err error) {
	password := filepath.Join(m.dir, "password")
	host := &rig.Host{Dir: filepath.Join(m.dir, "l"), Bin: bin}
	settings := filepath.Join(host.Dir, "etc", "plugins.d")
	config := fmt.Sprintf("[config.endpoints.sim]\naddress = %q\nuser = %q\nthumbprint = %q\npassword_file = %q\n",
		m.host.Address, m.host.User, m.host.Thumbprint, password)
	if err := errors.Join(
		os.WriteFile(password, []byte(m.host.Password+"\n"), 0o600),
		os.MkdirAll(settings, 0o700),
		os.WriteFile(filepath.Join(settings, "esx.toml"), []byte(config), 0o600),
	); err != nil {
		return fmt.Errorf("configure the driver: %w", err)
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	if err := host.Start(ctx); err != nil {
		return err
	}
	if err := m.sync(ctx, host); err != nil {
		return err
	}
	if err := m.calls(ctx, host); err != nil {
		return err
	}
	uri := "esx+unix:///?name=" + url.QueryEscape(esxURI) + "&socket=" + url.QueryEscape(host.Socket())
	c := esxClient{uri: uri}
	if err := m.commands(ctx, c); err != nil {
		return err
	}
	if err := m.definitions(ctx, host, c); err != nil {
		return err
	}
	return m.memory(host)
}

// sync measures from the first client's connection, which starts the driver, until the list is complete.
func (m *esxMeter) sync(ctx context.Context, host *rig.Host) error {
	ctx, cancel := context.WithTimeout(ctx, esxSync)
	defer cancel()
	began := time.Now()
	for {
		n, err := countAt(host)
		if err == nil && n == m.machines {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("first reading: %d machines are listed: %w", n, errors.Join(err, ctx.Err()))
		}
		time.Sleep(time.Millisecond)
	}
	m.r.time(fmt.Sprintf("driver's start and first reading of the host, %d machines", m.machines), time.Since(began))
	return nil
}

// countAt opens a connection and counts the machines.
func countAt(host *rig.Host) (int, error) {
	c, err := dial(host.Socket(), esxURI)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return listCount(c, 0)
}

// calls measures calls alone, without a process of virsh around them.
func (m *esxMeter) calls(_ context.Context, host *rig.Host) error {
	c, err := dial(host.Socket(), esxURI)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, call := range []struct {
		what string
		do   func(c *conn) (int, error)
	}{
		{"a call that lists names and ids", func(c *conn) (int, error) { return listCount(c, 0) }},
		{"a call that tells all states", allStats},
	} {
		var times []time.Duration
		for range 20 * m.plan.repeat {
			began := time.Now()
			n, err := call.do(c)
			if err == nil && n != m.machines {
				err = fmt.Errorf("%d machines are told, want %d", n, m.machines)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", call.what, err)
			}
			times = append(times, time.Since(began))
		}
		m.r.time(fmt.Sprintf("%s, %d machines", call.what, m.machines), median(times))
	}
	return nil
}

// definitions reads the XML of every machine, after which the driver has them all in memory.
func (m *esxMeter) definitions(ctx context.Context, host *rig.Host, virsh esxClient) error {
	names, _, _, err := virsh.run(ctx, "list", "--all", "--name")
	if err != nil {
		return err
	}
	c, err := dial(host.Socket(), esxURI)
	if err != nil {
		return err
	}
	defer c.Close()
	var times []time.Duration
	for _, name := range strings.Fields(names) {
		dom, err := lookup(c, name)
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := c.call(procGetXMLDesc, wire.Uint32(dom, 0)); err != nil {
			return fmt.Errorf("read XML of %s: %w", name, err)
		}
		times = append(times, time.Since(began))
	}
	m.r.time(fmt.Sprintf("a call that tells the XML of one, %d machines", m.machines), median(times))
	return nil
}

// memory measures the driver's process.
func (m *esxMeter) memory(host *rig.Host) error {
	found, err := host.Find(rig.Plugin)
	if err != nil {
		return err
	}
	for _, p := range found {
		if strings.HasSuffix(p.Name, "-esx") {
			m.r.size(fmt.Sprintf("resident memory of the driver's process, %d machines", m.machines), residentMiB([]int{p.PID}))
			return nil
		}
	}
	return errors.New("the driver's process is not found")
}
