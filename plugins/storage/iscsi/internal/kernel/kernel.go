// Package kernel serves pools of type "iscsi": the kernel's initiator is logged in at the target by iscsiadm(8), and the target's disks are
// block devices of this host.
//
// What there is is asked of sysfs, which answers at once whatever the target does; iscsiadm only changes things, and each run of it is
// bounded. Sessions are made by an interface of this driver's own, by whose name they are known: one that somebody else has made is used
// and left alone when the pool is stopped. All methods are safe concurrently.
//
// A password would have to be an argument of iscsiadm, for everybody to see, so it is written into the record of the node in open-iscsi's
// database (mode 0600), and the record is removed as soon as the login has ended; the kernel and iscsid have it then. What a crash leaves of
// it the next Start, Refresh or Stop removes.
//
// Sources: iscsiadm(8), and the sysfs-documentation of open-iscsi.
package kernel

import (
	"context"
	"fmt"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Roots are where the kernel shows things; empty ones are the usual.
type Roots struct {
	// Sys is sysfs, Dev the folder of devices.
	Sys, Dev string
}

// Settings are what an operator has set.
type Settings struct {
	// Program is iscsiadm's path, or empty to look for it.
	Program string
	// Database is the folder of node records, or empty for the usual ones.
	Database string
	// Timeout bounds a run of iscsiadm.
	Timeout time.Duration
}

// Pools are the pools of the type.
type Pools struct {
	Roots    Roots
	Settings func() Settings
}

func (p *Pools) sys() string {
	if p.Roots.Sys != "" {
		return p.Roots.Sys
	}
	return "/sys"
}

func (p *Pools) dev() string {
	if p.Roots.Dev != "" {
		return p.Roots.Dev
	}
	return "/dev"
}

// Available says whether iscsiadm is there.
func (p *Pools) Available() error {
	if name := p.program(); !command.Available(name) {
		return fmt.Errorf("%s %w", name, command.ErrMissing)
	}
	return nil
}

// Check tells whether the kernel is logged in.
func (p *Pools) Check(ctx context.Context, pool *define.Pool, _ []*pb.Secret) (bool, error) {
	s, err := p.find(ctx, pool)
	if err != nil || s == nil {
		return false, err
	}
	return true, s.healthy(pool)
}

// Start has the kernel log in.
func (p *Pools) Start(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) error {
	s, err := p.find(ctx, pool)
	if err != nil {
		return err
	}
	if s != nil {
		return s.healthy(pool)
	}
	n, err := p.node(ctx, pool)
	if err != nil {
		return err
	}
	changes, err := loginSettings(pool, secrets, p.Settings().Timeout)
	if err != nil {
		return err
	}
	if name := n.foreign(); name != "" {
		return storage.Failed("iSCSI target '%s' has a record that is not this driver's, and stays as it is: %s", pool.Target(), name)
	}
	if err := p.iface(ctx, n); err != nil {
		return err
	}
	defer n.remove()
	n.remove()
	if err := p.run(ctx, n.args("--op", "new")...); err != nil {
		return failed(pool, "make a record of the target", err)
	}
	if err := n.change(changes); err != nil {
		return storage.SystemError(err, "cannot change the record of iSCSI target '%s'", pool.Target())
	}
	if err := p.run(ctx, n.args("--login")...); err != nil && status(err) != sessionExists {
		return p.giveUp(ctx, pool, failed(pool, "log in", err))
	}
	return nil
}

// giveUp ends what a login that failed may have left, as iscsid goes on when iscsiadm has been ended.
func (p *Pools) giveUp(ctx context.Context, pool *define.Pool, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.Settings().Timeout)
	defer cancel()
	_ = p.Stop(ctx, pool) // the cause is what the caller has to know
	return cause
}

// Stop has the kernel log out, of a session that this driver has made.
func (p *Pools) Stop(ctx context.Context, pool *define.Pool) error {
	if n, err := p.node(ctx, pool); err == nil {
		n.remove()
	}
	s, err := p.find(ctx, pool)
	if err != nil || s == nil || s.iface != ifaceOf(pool) {
		return err
	}
	err = p.run(ctx, "--mode", "session", "--sid", s.id, "--logout")
	if st := status(err); err != nil && st != noObjects && st != noSession && st != notInSysfs {
		return failed(pool, "log out", err)
	}
	return nil
}

// FindSources asks a server for its targets.
func (p *Pools) FindSources(ctx context.Context, spec *poolxml.Source) (string, error) {
	host := spec.Hosts[0]
	portal, err := resolve(ctx, define.PortalOf(host))
	if err != nil {
		return "", err
	}
	args := []string{"--mode", "discovery", "--type", "sendtargets", "--portal", portal, "--op", "nonpersistent"}
	name := define.InitiatorOf(spec)
	if name != "" {
		n := node{iface: ifaceFor(name), initiator: name}
		if err := p.iface(ctx, n); err != nil {
			return "", err
		}
		args = append(args, "--interface", n.iface)
	}
	text, err := p.output(ctx, args...)
	if err != nil {
		return "", verr.New(code(err), "cannot list the iSCSI targets at %s: %w", portal, err).In(verr.FromStorage)
	}
	var all []poolxml.Source
	for _, target := range parseTargets(text) {
		all = append(all, poolxml.Source{
			Hosts: []poolxml.Host{host}, Devices: []poolxml.Device{{Path: target}}, Initiator: spec.Initiator,
		})
	}
	return poolxml.Sources(all)
}
