package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/cgroup"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxWords bounds what of a QEMU's own words reaches a client, in bytes.
const maxWords = 4096

// Start implements hypervisor.Driver.
func (d *Driver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	return d.start(ctx, req, nil)
}

// start brings a guest to life, to boot or with a state.
func (d *Driver) start(ctx context.Context, req *pb.StartRequest, from *restore) (*pb.StartResponse, error) {
	l, err := d.newLife(req.GetGuest(), req.GetResolved().GetCgroup())
	if err != nil {
		return nil, err
	}
	ctx, l.cancel = context.WithCancel(ctx)
	defer l.cancel()
	if d.enter(l) != nil {
		return nil, verr.New(verr.OperationInvalid, "domain is already active")
	}
	if other := l.sibling(d.core.Settings().CgroupParent); other != 0 {
		d.abandon(l)
		return nil, verr.New(verr.OperationInvalid, "domain is already active as process %d", other)
	}
	if err := l.folder.make(l.cgroup); err != nil {
		d.abandon(l)
		if errors.Is(err, fs.ErrExist) {
			return nil, verr.New(verr.OperationInvalid, "generation %d of the domain was started before", l.ref.GetGeneration())
		}
		return nil, err
	}
	s := &start{driver: d, life: l, req: req, restore: from, ports: promise{of: &d.ports}}
	resp, err := s.run(ctx)
	s.close()
	if err != nil {
		s.undo(ctx)
		d.abandon(l)
		return nil, err
	}
	d.settle(l, s.guest)
	return resp, nil
}

// start is one start under way.
type start struct {
	driver *Driver
	life   *life
	req    *pb.StartRequest
	// restore is nil for a guest that boots.
	restore *restore

	// files are for QEMU to inherit, log is for its words; both are closed when it has them.
	files []*os.File
	log   *os.File
	// said is the size of the log before the start.
	said int64

	ports   promise
	label   label
	cmd     *cmdline.Command
	process *process.Process
	monitor *qmp.Client
	guest   *guest.Guest
	// refused is why the guest's process was not let through the gate.
	refused error
}

func (s *start) run(ctx context.Context) (*pb.StartResponse, error) {
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if s.restore != nil {
		if err := s.restore.mark(s); err != nil {
			return nil, err
		}
	}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	cfg := s.driver.watch(s.life)
	cfg.Process, cfg.Monitor = s.process, s.monitor
	s.guest = guest.New(cfg)
	change, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.StartResponse{Handle: s.life.handle(s.process.ID()), Change: change, LiveXml: s.life.xml()}, nil
}

// begin lets the guest run, or loads its state.
func (s *start) begin(ctx context.Context) (*pb.Change, error) {
	if s.restore != nil {
		return s.restore.load(ctx, s)
	}
	change, err := s.guest.Begin(ctx, s.req.GetPaused())
	if err != nil {
		return nil, s.explain(err)
	}
	return change, nil
}

func (l *life) handle(id process.ID) *pb.Handle {
	return &pb.Handle{Version: handleVersion, Pid: int32(id.PID), StartTime: id.StartTime, Cgroup: l.cgroup}
}

// prepare makes everything that QEMU is started with.
func (s *start) prepare(ctx context.Context) error {
	def, err := domxml.Parse(s.req.GetXml())
	if err != nil {
		return err
	}
	s.life.know(s.req.GetResolved().GetDisks())
	resolveVolumes(def, s.life.volumes)
	socket, err := s.life.folder.listen(ctx)
	if err != nil {
		return err
	}
	s.files = append(s.files, socket)
	if s.log, err = openLog(s.driver.core.Settings().LogDir, s.life.ref); err != nil {
		return err
	}
	if info, err := s.log.Stat(); err == nil {
		s.said = info.Size()
	}
	if s.label, err = s.driver.labelOf(def); err != nil {
		return err
	}
	if s.cmd, err = s.build(ctx, def); err != nil {
		return err
	}
	s.label.show(s.cmd.Live)
	return s.takeLeases(ctx)
}

// takeLeases gets the descriptors of the locks. They come last, so that the numbers of the others are known to the command line.
func (s *start) takeLeases(ctx context.Context) error {
	for _, lease := range s.req.GetResolved().GetLeases() {
		if len(lease.GetToken()) == 0 {
			continue
		}
		file, err := s.driver.core.TakeFile(ctx, lease.GetToken())
		if err != nil {
			return verr.New(verr.Internal, "lock of %q did not arrive: %w", lease.GetResource(), err)
		}
		s.files = append(s.files, file)
	}
	return nil
}

// openLog opens the guest's log, named as libvirt names it where the name makes a file name.
func openLog(dir string, ref *pb.Guest) (*os.File, error) {
	name := ref.GetName()
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") || len(name) > 200 {
		name = ref.GetUuid()
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of guest: %w", err)
	}
	return f, nil
}

func (s *start) launch(ctx context.Context) error {
	config, err := s.driver.config()
	if err != nil {
		return err
	}
	owner := s.label.owner
	if err := give(owner, s.life.folder.path(ownName)); err != nil {
		return err
	}
	spec := process.Spec{
		Marker: s.life.marker(), Path: s.cmd.Path, Args: s.cmd.Args, Dir: string(s.life.folder), Owner: owner,
		Env: append(s.environment(), s.cmd.Environment...), CgroupFiles: s.group(), Files: s.files, Log: s.log,
		OpenFiles: config.files(), LockedMemory: s.locked(),
	}
	if err := s.gate(ctx, &spec); err != nil {
		return err
	}
	p, warnings, err := process.Launch(ctx, spec)
	for _, w := range warnings {
		s.life.log.Debug("guest launched with a warning", "warning", w)
	}
	if err != nil {
		return s.explainLaunch(err)
	}
	s.process = p
	s.closeFiles()
	return nil
}

// locked reports whether the definition wants the guest's memory locked.
func (s *start) locked() bool {
	m := s.cmd.Live.MemoryBacking
	return m != nil && m.MemoryLocked != nil
}

// environment is that of every process of a guest; nothing of the plugin's own reaches them.
func (s *start) environment() []string {
	return []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.life.folder.path(ownName)}
}

// group makes the guest's control group, as far as the host lets us.
func (s *start) group() []string {
	if s.life.cgroup == "" {
		return nil
	}
	group, err := cgroup.Create(s.life.cgroup)
	if err != nil {
		s.life.log.Debug("control group of guest is not complete", "error", err)
	}
	return group.ProcsFiles()
}

// connect talks to QEMU for the first time: it learns what only QEMU knows, and leaves the live XML for Recover.
func (s *start) connect(ctx context.Context) error {
	var err error
	if s.monitor, err = s.life.folder.dial(ctx); err != nil {
		return s.explain(err)
	}
	if err := s.life.learn(ctx, s.monitor, s.cmd.Live, setup(s.cmd)...); err != nil {
		return s.explain(err)
	}
	return nil
}

// explain turns an error of a QEMU that came up badly into libvirt's, with QEMU's own words if it said any.
func (s *start) explain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("start guest: %w", err)
	}
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return verr.New(verr.Internal, "QEMU refused to set the domain up: %w", err)
	}
	if words := process.Tail(s.log, s.said, maxWords); words != "" {
		return verr.New(verr.Internal, "process exited while connecting to monitor: %s", words)
	}
	return verr.New(verr.Internal, "process exited while connecting to monitor: %w", err)
}

// undo leaves nothing of a start that failed.
func (s *start) undo(ctx context.Context) {
	switch {
	case s.guest != nil:
		s.guest.Close()
	case s.process != nil:
		closeMonitor(s.monitor)
		s.process.Close()
	}
	if s.process != nil {
		if err := process.Sweep(ctx, s.life.marker()); err != nil {
			s.life.log.Error("guest that failed to start is not gone", "error", err)
		}
	}
	s.life.clean()
}

// closeFiles closes our copies of what QEMU has inherited: a QEMU that ends must close its monitor for good.
func (s *start) closeFiles() {
	for _, f := range s.files {
		_ = f.Close()
	}
	s.files = nil
}

func (s *start) close() {
	s.closeFiles()
	s.ports.release()
	if s.log != nil {
		_ = s.log.Close()
	}
}
