package core

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
)

// part is a plugin of any kind.
type part struct {
	host     *Host
	manifest *manifest.Manifest
	settings *manifest.Settings
	plugin   *supervise.Plugin
}

// settings reads what the operator has set for a plugin.
func (h *Host) settings(m *manifest.Manifest) (*manifest.Settings, error) {
	return manifest.ReadSettings(filepath.Join(h.cfg.Layout.Conf, "plugins.d"), m.Name)
}

// supervised makes the plugin's supervision; hooks adds what its kind needs.
func (p *part) supervised(hooks func(*supervise.Config)) *supervise.Plugin {
	h, m := p.host, p.manifest
	restart := supervise.DefaultRestart
	restart.Crashes = h.cfg.Settings.Plugins.CrashesPerMinute
	cfg := supervise.Config{
		Manifest: m, Pin: p.settings.SHA256, Log: h.cfg.Log.Named("plugin"), Restart: restart,
		Dirs: supervise.Dirs{
			Private: filepath.Join(h.cfg.Layout.Run, "plugins", m.Name),
			LogFile: filepath.Join(h.cfg.Layout.Log, "plugins", m.Name+".log"),
		},
		Core: p.serveState, Configure: p.configure,
	}
	hooks(&cfg)
	return supervise.New(cfg)
}

// serveState serves what every plugin may use of the core.
func (p *part) serveState(g *grpc.Server) {
	corev1.RegisterStateServiceServer(g, &stateService{catalog: p.host.catalog, plugin: p.manifest.Name})
	corev1.RegisterSecretServiceServer(g, &secretService{part: p})
}

func (p *part) log() hclog.Logger { return p.host.cfg.Log.With("plugin", p.manifest.Name) }

// configure makes the settings of a plugin that has just started.
func (p *part) configure(desc *basev1.DescribeResponse) (*basev1.ConfigureRequest, error) {
	own, err := manifest.EncodeConfig(p.settings.Config, desc.ConfigKeys)
	if err != nil {
		return nil, err
	}
	l, name := p.host.cfg.Layout, p.manifest.Name
	for _, dir := range []string{l.Guests(name), l.PluginState(name), l.GuestLogs(name)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make folder for plugin: %w", err)
		}
	}
	level := p.settings.LogLevel
	if level == "" {
		level = p.host.cfg.Settings.LogLevel
	}
	return &basev1.ConfigureRequest{
		ConfigJson: own, RuntimeDir: l.Guests(name), StateDir: l.PluginState(name), LogDir: l.GuestLogs(name),
		CgroupParent: cgroupParent, LogLevel: level,
	}, nil
}

// cgroupParent is the control group that guests are put below.
const cgroupParent = "lodge"
