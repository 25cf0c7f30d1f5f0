// Package driver is the qemu driver: it answers the contract's calls with the parts in the packages beside it.
//
// The driver remembers nothing that it can't find again. Each life of a guest has a folder of its own below the plugin's runtime
// folder, named by UUID and generation, in which a start leaves the process, the live XML and the last state before it goes on;
// Recover reads them, and believes the kernel and QEMU more than them. A change of devices leaves what it is about to do there, too, so that
// one that was cut off is completed or taken back (see devices.go). A guest's end removes folder and control group before anybody is
// told, so that the guest may be started again at once.
//
// The table of lives is guarded by one mutex that is never held while anything waits. Each living guest is owned by its guest.Guest.
// Calls for different guests don't wait for each other; a stuck QEMU costs the calls to it their deadline.
package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/capabilities"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/ownership"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/cgroup"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// driverName stands in markers and in names of control groups.
const driverName = "qemu"

// handleVersion is that of the handles that are made; their data is empty, since folder and marker follow from the guest.
const handleVersion = 1

// Driver implements hypervisor.Driver and all optional interfaces. Make one with New.
type Driver struct {
	core     plugin.Core
	log      hclog.Logger
	prober   *probe.Prober
	reporter *capabilities.Reporter
	envs     envs
	ports    ports
	scanner  process.Scanner
	keeper   ownership.Keeper
	// unplugTime is how long a guest is waited for that is asked to give a device up.
	unplugTime time.Duration
	// points are where tests end the driver; nil has none.
	points *failpoint.Set

	// mu guards lives and what of a life says so. Nothing waits while it is held.
	mu    sync.Mutex
	lives map[string]*life
}

// Compile-time guards.
var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Lifecycle = (*Driver)(nil)
	_ hypervisor.Devices   = (*Driver)(nil)
)

// life is one life of a guest: being started, living, or ending.
type life struct {
	ref    *pb.Guest
	folder folder
	cgroup string
	log    hclog.Logger

	// settled is closed when a start or a recovery has ended, well or not; cancel ends it early.
	settled chan struct{}
	cancel  context.CancelFunc

	// guest is nil until settled; Driver.mu guards it.
	guest *guest.Guest
	// shown is the live definition; it is replaced as a whole.
	shown   atomic.Pointer[shown]
	devices devices
	// volumes are what the volumes stand for that disks of the guest name, perhaps with some that it has no more.
	volumes []*pb.Disk
	points  *failpoint.Set

	consoles consoles
	saves    saves
	// files guards what is written into the folder while the guest lives, and whether it still may be.
	files   sync.Mutex
	removed bool
	keeper  *ownership.Keeper
	// helped says that processes beside QEMU serve the guest.
	helped bool
}

// Plugin is the driver as a plugin of a version. Its binary is the stage of its guests, too.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: driverName, Version: version, ConfigKeys: ConfigKeys(),
		Hypervisor: func(core plugin.Core) (hypervisor.Driver, error) { return New(core) },
		Commands:   map[string]func([]string) int{process.StageCommand: process.Stage},
	}
}

// New makes a driver. It looks at nothing yet.
func New(core plugin.Core) (*Driver, error) {
	log := core.Logger()
	prober := probe.New(probe.Options{Store: core.State(), Log: log})
	return &Driver{
		core: core, log: log, prober: prober, reporter: capabilities.NewReporter(prober, log), lives: map[string]*life{},
		ports: ports{taken: map[int]bool{}}, unplugTime: unplugTime,
	}, nil
}

// Close lets go of all guests, which live on. Those that are being saved go on first.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	var guests []*guest.Guest
	var lives []*life
	for _, l := range d.lives {
		if l.cancel != nil {
			l.cancel()
		}
		if l.guest != nil {
			guests = append(guests, l.guest)
			lives = append(lives, l)
		}
	}
	d.mu.Unlock()
	for _, l := range lives {
		if err := l.saves.end(ctx); err != nil {
			l.log.Warn("guest is left in the middle of a save", "error", err)
		}
	}
	for _, g := range guests {
		g.Close()
	}
	return nil
}

// newLife prepares a life of a guest whose names are safe to make paths of.
func (d *Driver) newLife(ref *pb.Guest, group string) (*life, error) {
	if _, err := domxml.ParseUUID(ref.GetUuid()); err != nil || strings.ToLower(ref.GetUuid()) != ref.GetUuid() {
		return nil, verr.New(verr.InvalidArg, "UUID %q is not in the form 8-4-4-4-12, lower case", ref.GetUuid())
	}
	settings := d.core.Settings()
	if settings.RuntimeDir == "" {
		return nil, verr.New(verr.Internal, "driver is not configured yet")
	}
	dir := folder(filepath.Join(settings.RuntimeDir, fmt.Sprintf("%s-%d", ref.GetUuid(), ref.GetGeneration())))
	if group == "" {
		group = dir.group()
	}
	if group == "" && settings.CgroupParent != "" {
		group = filepath.Join(settings.CgroupParent, cgroupName(ref))
	}
	return &life{
		ref: ref, cgroup: group, folder: dir, settled: make(chan struct{}), keeper: &d.keeper, devices: newDevices(), points: d.points,
		log: d.log.With("guest", ref.GetName(), "gen", ref.GetGeneration()),
	}, nil
}

func cgroupName(ref *pb.Guest) string {
	return fmt.Sprintf("lodge-%s-%s-%d", driverName, ref.GetUuid(), ref.GetGeneration())
}

func (l *life) marker() process.Marker {
	return process.Marker{Driver: driverName, UUID: l.ref.GetUuid(), Generation: l.ref.GetGeneration()}
}

// helperMarker is carried by the processes beside QEMU, which must not be taken for it.
func (l *life) helperMarker() process.Marker {
	m := l.marker()
	m.Driver += "-helper"
	return m
}

// enter puts a life into the table, unless there is one of the guest; then it returns that.
func (d *Driver) enter(l *life) (other *life) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other := d.lives[l.ref.GetUuid()]; other != nil {
		return other
	}
	d.lives[l.ref.GetUuid()] = l
	return nil
}

// leave takes a life out of the table.
func (d *Driver) leave(l *life) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lives[l.ref.GetUuid()] == l {
		delete(d.lives, l.ref.GetUuid())
	}
}

// find returns the life of a guest, or nil.
func (d *Driver) find(ref *pb.Guest) *life {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lives[ref.GetUuid()]
}

// living returns the life and the guest that a call is about. A guest that does not live under that generation is refused with
// OperationInvalid.
func (d *Driver) living(ref *pb.Guest) (*life, *guest.Guest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lives[ref.GetUuid()]
	if l == nil || l.guest == nil || l.ref.GetGeneration() != ref.GetGeneration() {
		return nil, nil, errNotRunning
	}
	return l, l.guest, nil
}

// errNotRunning is what calls get for a guest that does not live.
var errNotRunning = verr.New(verr.OperationInvalid, "domain is not running")

// settle ends a start or a recovery that has brought a guest into the driver's charge.
func (d *Driver) settle(l *life, g *guest.Guest) {
	d.mu.Lock()
	l.guest = g
	d.mu.Unlock()
	close(l.settled)
}

// abandon ends a start or a recovery that has brought nothing.
func (d *Driver) abandon(l *life) {
	d.leave(l)
	close(l.settled)
}

// watch is the part of a guest's configuration that ties it to its life.
func (d *Driver) watch(l *life) guest.Config {
	return guest.Config{
		Facts: facts(l.live()), Log: l.log, Dial: l.folder.dial,
		Changed: func(change *pb.Change) { d.publish(l, change) },
		Devices: func(g *guest.Guest, news guest.DeviceNews) { d.hear(l, g, news) },
		Remember: func(m guest.Memory) {
			if err := l.folder.writeMemory(m); err != nil {
				l.log.Warn("state of guest not kept", "error", err)
			}
		},
		Ended: func(change *pb.Change) {
			l.consoles.close()
			l.clean()
			d.leave(l)
			if change != nil {
				d.publish(l, change)
			}
		},
	}
}

func (d *Driver) publish(l *life, change *pb.Change) {
	d.core.Publish(&pb.WatchEvent{Guest: l.ref, Change: change})
}

// clean removes what is left of a life that has ended.
func (l *life) clean() {
	if l.helped || l.folder.has(helpersName) {
		if err := process.Sweep(context.Background(), l.helperMarker()); err != nil {
			l.log.Warn("helpers of guest not ended", "error", err)
		}
	}
	l.takeBackFiles()
	if err := os.RemoveAll(string(l.folder)); err != nil {
		l.log.Warn("folder of guest not removed", "error", err)
	}
	if l.cgroup == "" {
		return
	}
	group, err := cgroup.Open(l.cgroup)
	if err == nil {
		err = removeGroup(group)
	}
	if err != nil {
		l.log.Warn("control group of guest not removed", "error", err)
	}
}
