package plugin

import (
	"context"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// service is the PluginService that every plugin has.
type service struct {
	basev1.UnsafePluginServiceServer
	plugin      Plugin
	link        *link
	driver      any // of whatever kind
	server      *grpc.Server
	shutdown    context.CancelFunc
	description *basev1.DescribeResponse

	mu sync.Mutex // one Configure at a time
}

// describe fixes what Describe answers; called once all services are registered.
func (s *service) describe() {
	d := &basev1.DescribeResponse{Name: s.plugin.Name, Version: s.plugin.Version, ConfigKeys: s.plugin.ConfigKeys}
	for _, name := range slices.Sorted(maps.Keys(s.server.GetServiceInfo())) {
		if strings.HasPrefix(name, "lodge.") {
			d.Services = append(d.Services, &basev1.Service{Name: name})
		}
	}
	s.description = d
}

// Describe tells what the plugin is.
func (s *service) Describe(context.Context, *basev1.DescribeRequest) (*basev1.DescribeResponse, error) {
	return s.description, nil
}

// Configure takes the settings over, unless the driver refuses them.
func (s *service) Configure(ctx context.Context, req *basev1.ConfigureRequest) (*basev1.ConfigureResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(req.GetConfigJson()) > 0 && !json.Valid(req.GetConfigJson()) {
		return nil, verr.New(verr.InvalidArg, "the configuration of plugin %q is not JSON", s.plugin.Name)
	}
	level := hclog.Info
	if req.GetLogLevel() != "" {
		if level = hclog.LevelFromString(req.GetLogLevel()); level == hclog.NoLevel {
			return nil, unknownLevel(req.GetLogLevel())
		}
	}
	before := s.link.Settings()
	after := Settings{
		Config: req.GetConfigJson(), RuntimeDir: req.GetRuntimeDir(), StateDir: req.GetStateDir(),
		LogDir: req.GetLogDir(), CgroupParent: req.GetCgroupParent(),
	}
	s.link.setSettings(after)
	if c, ok := s.driver.(Configurer); ok {
		if err := c.Configure(ctx, after); err != nil {
			s.link.setSettings(before)
			return nil, err
		}
	}
	s.link.log.logger.SetLevel(level)
	return &basev1.ConfigureResponse{}, nil
}

// SetLogLevel changes the level of all loggers.
func (s *service) SetLogLevel(_ context.Context, req *basev1.SetLogLevelRequest) (*basev1.SetLogLevelResponse, error) {
	level := hclog.LevelFromString(req.GetLevel())
	if level == hclog.NoLevel {
		return nil, unknownLevel(req.GetLevel())
	}
	s.link.log.logger.SetLevel(level)
	return &basev1.SetLogLevelResponse{}, nil
}

// Diagnose returns facts about the process, and those of the driver.
func (s *service) Diagnose(ctx context.Context, _ *basev1.DiagnoseRequest) (*basev1.DiagnoseResponse, error) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	facts := map[string]string{
		"goroutines": strconv.Itoa(runtime.NumGoroutine()),
		"heap_bytes": strconv.FormatUint(mem.HeapAlloc, 10),
		"go":         runtime.Version(),
	}
	if d, ok := s.driver.(Diagnoser); ok {
		maps.Copy(facts, d.Diagnose(ctx))
	}
	return &basev1.DiagnoseResponse{Facts: facts}, nil
}

// Shutdown lets the process end once this and the other calls under way are answered.
func (s *service) Shutdown(context.Context, *basev1.ShutdownRequest) (*basev1.ShutdownResponse, error) {
	s.shutdown()
	return &basev1.ShutdownResponse{}, nil
}

func unknownLevel(level string) error {
	return verr.New(verr.InvalidArg, "log level %q is none of trace, debug, info, warn and error", level)
}
