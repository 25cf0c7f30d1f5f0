// Package driver is the storage driver for pools on iSCSI targets: "iscsi-direct", reached by this process itself (package direct), and
// "iscsi", reached by the kernel (package kernel). Volumes are the target's disks; they are made and removed at the target, and not here.
//
// The driver keeps nothing. All methods are safe concurrently. Passwords come with each call and go no further than the login.
package driver

import (
	"context"
	"encoding/json"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/direct"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/kernel"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/libiscsi"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// pools are the pools of one type. Package direct and package kernel have them.
type pools interface {
	Check(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) (bool, error)
	Start(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) error
	Stop(ctx context.Context, pool *define.Pool) error
	Refresh(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, found func(...*pb.Volume) error) (*pb.PoolSize, error)
}

// contents are what is in their volumes.
type contents interface {
	Wipe(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, v *pb.Volume, algorithm uint32, progress storage.Progress) error
	Download(ctx context.Context, pool *define.Pool, req *pb.DownloadRequest) (storage.Source, error)
	Upload(ctx context.Context, pool *define.Pool, begin *pb.UploadBegin) (storage.Sink, error)
}

// backend is all that is done with pools of one type.
type backend interface {
	pools
	contents
	// FindSources asks a server, which the description names, for its targets.
	FindSources(ctx context.Context, spec *poolxml.Source) (string, error)
}

// Driver implements storage.Driver, and of the optional interfaces those that need no say in what disks a target has.
type Driver struct {
	core   plugin.Core
	direct *direct.Pools
	kernel *kernel.Pools
}

var (
	_ storage.Driver    = (*Driver)(nil)
	_ storage.Finder    = (*Driver)(nil)
	_ storage.Wiper     = (*Driver)(nil)
	_ storage.Transfer  = (*Driver)(nil)
	_ plugin.Configurer = (*Driver)(nil)
	_ backend           = (*direct.Pools)(nil)
	_ backend           = (*kernel.Pools)(nil)
)

// defaultTimeout bounds a step of a session where nothing else is set.
const defaultTimeout = 15

// Config is the plugin's own table.
type Config struct {
	// TimeoutSeconds bounds a step of a session, or a run of iscsiadm; 0 is defaultTimeout.
	TimeoutSeconds int64 `json:"timeout_seconds"`
	// Program is iscsiadm's path, or empty to look for it.
	Program string `json:"iscsiadm"`
	// Database is the folder of open-iscsi's node records, or empty for where it usually is.
	Database string `json:"node_database"`
}

func configKeys() []*basev1.ConfigKey {
	return []*basev1.ConfigKey{
		{Name: "timeout_seconds", Kind: basev1.ValueKind_VALUE_KIND_INTEGER, Help: "how long a target may take for one answer, or iscsiadm for one run, from 1 to 600; 15 if not set"},
		{Name: "iscsiadm", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "path of iscsiadm; looked for if empty"},
		{Name: "node_database", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "folder of open-iscsi's records of nodes; /var/lib/iscsi/nodes or /etc/iscsi/nodes if empty"},
	}
}

func parseConfig(text []byte) (Config, error) {
	c := Config{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &c); err != nil {
			return c, verr.New(verr.ConfigUnsupported, "read settings of the iscsi driver: %w", err)
		}
	}
	if c.TimeoutSeconds == 0 {
		c.TimeoutSeconds = defaultTimeout
	}
	if c.TimeoutSeconds < 1 || c.TimeoutSeconds > 600 {
		return c, verr.New(verr.ConfigUnsupported, "timeout_seconds is %d, and may be from 1 to 600", c.TimeoutSeconds)
	}
	return c, nil
}

// config is the table that Configure has taken.
func (d *Driver) config() Config {
	c, err := parseConfig(d.core.Settings().Config)
	if err != nil { // Configure has refused such a table
		return Config{TimeoutSeconds: defaultTimeout}
	}
	return c
}

// Configure implements plugin.Configurer.
func (d *Driver) Configure(_ context.Context, settings plugin.Settings) error {
	_, err := parseConfig(settings.Config)
	return err
}

// Plugin is the plugin that has the driver.
func Plugin(version string) plugin.Plugin { return pluginOn(version, kernel.Roots{}) }

// pluginOn is Plugin with other roots of what the kernel shows.
func pluginOn(version string, roots kernel.Roots) plugin.Plugin {
	return plugin.Plugin{
		Name: "iscsi", Version: version, ConfigKeys: configKeys(),
		Storage: func(core plugin.Core) (storage.Driver, error) {
			d := &Driver{core: core}
			timeout := func() time.Duration { return time.Duration(d.config().TimeoutSeconds) * time.Second }
			d.direct = &direct.Pools{Initiator: libiscsi.Initiator{}, Timeout: timeout}
			d.kernel = &kernel.Pools{Roots: roots, Settings: func() kernel.Settings {
				c := d.config()
				return kernel.Settings{Program: c.Program, Database: c.Database, Timeout: timeout()}
			}}
			return d, nil
		},
	}
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	types := []*pb.PoolType{{Name: define.Kernel}, {Name: define.Direct}}
	for n, err := range []error{d.kernel.Available(), d.direct.Initiator.Available()} {
		types[n].Supported = err == nil
		if err != nil {
			types[n].Reason = err.Error()
		}
	}
	return types, nil
}

// Validate implements storage.Driver.
func (d *Driver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := define.ParsePool(req.GetXml())
	if err != nil {
		return nil, err
	}
	rsp, err := p.Validated(p.Exclusive(), define.Protocol)
	if err == nil && p.Type == define.Kernel {
		rsp.TargetPath = p.Folder()
	}
	return rsp, err
}

// of reads a pool's definition and finds who serves its type.
func (d *Driver) of(ref *pb.Pool) (backend, *define.Pool, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, nil, err
	}
	if p.Type == define.Direct {
		if err := d.direct.Initiator.Available(); err != nil {
			return nil, nil, verr.New(verr.NoSupport, "pools of type '%s' cannot be used: %w", p.Type, err).In(verr.FromStorage)
		}
		return d.direct, p, nil
	}
	return d.kernel, p, nil
}

// Check implements storage.Driver.
func (d *Driver) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	b, p, err := d.of(ref)
	if err != nil {
		return false, err
	}
	return b.Check(ctx, p, ref.GetSecrets())
}

// Start implements storage.Driver.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	b, p, err := d.of(ref)
	if err != nil {
		return err
	}
	return b.Start(ctx, p, ref.GetSecrets())
}

// Stop implements storage.Driver. What this build cannot use has nothing to be ended either.
func (d *Driver) Stop(ctx context.Context, ref *pb.Pool) error {
	b, p, err := d.of(ref)
	if verr.Is(err, verr.NoSupport) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.Stop(ctx, p)
}

// Refresh implements storage.Driver.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	b, p, err := d.of(ref)
	if err != nil {
		return nil, err
	}
	return b.Refresh(ctx, p, ref.GetSecrets(), found)
}

// FindSources implements storage.Finder.
func (d *Driver) FindSources(ctx context.Context, req *pb.FindSourcesRequest) (string, error) {
	spec, err := poolxml.ParseSource(req.GetSourceXml())
	if err != nil {
		return "", err
	}
	if len(spec.Hosts) != 1 {
		return "", verr.New(verr.InvalidArg, "hostname must be specified for iscsi sources").In(verr.FromStorage)
	}
	if err := spec.Hosts[0].Check(); err != nil {
		return "", err
	}
	if req.GetType() == define.Direct {
		return d.direct.FindSources(ctx, spec)
	}
	return d.kernel.FindSources(ctx, spec)
}
