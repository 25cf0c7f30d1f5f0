package vimtest

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// autostartRef is the manager that the simulator's hosts refer to.
var autostartRef = types.ManagedObjectReference{Type: "HostAutoStartManager", Value: "ha-autostart-mgr"}

// autostart is the HostAutoStartManager; hosts of a simulated vCenter server share it.
type autostart struct {
	mo.HostAutoStartManager
}

func addAutostart(registry *simulator.Registry) {
	registry.Put(&autostart{mo.HostAutoStartManager{Self: autostartRef}})
}

// ReconfigureAutostart merges the request into the present configuration.
func (a *autostart) ReconfigureAutostart(ctx *simulator.Context, req *types.ReconfigureAutostart) soap.HasFault {
	infos := slices.Clone(a.Config.PowerInfo)
	for _, info := range req.Spec.PowerInfo {
		infos = slices.DeleteFunc(infos, func(old types.AutoStartPowerInfo) bool { return old.Key == info.Key })
		infos = append(infos, info)
	}
	config := types.HostAutoStartManagerConfig{Defaults: a.Config.Defaults, PowerInfo: infos}
	if req.Spec.Defaults != nil {
		config.Defaults = req.Spec.Defaults
	}
	ctx.Update(a, []types.PropertyChange{{Name: "config", Op: types.PropertyChangeOpAssign, Val: config}})
	return &methods.ReconfigureAutostartBody{Res: &types.ReconfigureAutostartResponse{}}
}

// Autostart says whether a virtual machine starts with its host.
func (s *Server) Autostart(name string, on bool) {
	s.t.Helper()
	action := types.AutoStartActionNone
	if on {
		action = types.AutoStartActionPowerOn
	}
	vm := s.vm(name).Reference()
	s.do("set autostart of "+name, func(ctx context.Context) error {
		_, err := methods.ReconfigureAutostart(ctx, s.admin.Client, &types.ReconfigureAutostart{
			This: autostartRef, Spec: types.HostAutoStartManagerConfig{
				Defaults: &types.AutoStartDefaults{Enabled: types.NewBool(true)},
				PowerInfo: []types.AutoStartPowerInfo{{
					Key: vm, StartOrder: -1, StartDelay: -1, WaitForHeartbeat: types.AutoStartWaitHeartbeatSettingSystemDefault,
					StartAction: string(action), StopDelay: -1, StopAction: "systemDefault",
				}},
			},
		})
		return err
	})
}

// AutostartEnabled switches the automatic starts of the host.
func (s *Server) AutostartEnabled(on bool) {
	s.t.Helper()
	s.do("switch automatic starts", func(ctx context.Context) error {
		_, err := methods.ReconfigureAutostart(ctx, s.admin.Client, &types.ReconfigureAutostart{
			This: autostartRef, Spec: types.HostAutoStartManagerConfig{Defaults: &types.AutoStartDefaults{Enabled: types.NewBool(on)}},
		})
		return err
	})
}
