package network

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// configuration is the property that is followed: the host's HostNetworkInfo.
const configuration = "config.network"

// Networks follows the networks and interfaces of one host.
type Networks struct {
	endpoint *endpoint.Endpoint
	host     func(context.Context) (*object.HostSystem, error)
	feed     *inventory.Feed
	log      hclog.Logger
	follower *follow.Follower
	// turn is taken by the change that is under way.
	turn chan struct{}
}

// Start begins to follow a host, which host finds at the beginning of each watch and of each change; only its reference is used. It ends
// with Close, or when the endpoint is closed. The only error is that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, host func(context.Context) (*object.HostSystem, error), feed *inventory.Feed, log hclog.Logger) (
	*Networks, error,
) {
	return StartWith(e, host, feed, log, follow.Options{})
}

// StartWith is Start with other times than those that are good for real endpoints.
func StartWith(e *endpoint.Endpoint, host func(context.Context) (*object.HostSystem, error), feed *inventory.Feed, log hclog.Logger,
	o follow.Options,
) (*Networks, error) {
	n := &Networks{endpoint: e, host: host, feed: feed, log: log.With("endpoint", e.Name()), turn: make(chan struct{}, 1)}
	var err error
	if n.follower, err = follow.Start(e, o, &source{networks: n}); err != nil {
		return nil, err
	}
	return n, nil
}

// Ready waits until the host was read for the first time and is in the feed, or says why it is not.
func (n *Networks) Ready(ctx context.Context) error { return n.follower.Ready(ctx) }

// Close ends the following and waits for it. What is in the feed stays there.
func (n *Networks) Close() { n.follower.Close() }

// source is the host's configuration for the follower.
type source struct {
	networks *Networks
	info     *types.HostNetworkInfo
	// told is what the feed was given last.
	told *pb.Objects
}

var _ follow.Source = (*source)(nil)

// Open watches the host's configuration.
func (s *source) Open(ctx context.Context, w *follow.Watch) error {
	s.info = nil
	host, err := s.networks.host(ctx)
	if err != nil {
		return err
	}
	return w.Object(ctx, host.Reference(), configuration)
}

// Apply keeps the configuration that is told. A host that tells none, as one that its vCenter server has lost, keeps what it told last.
func (s *source) Apply(update types.ObjectUpdate) error {
	for _, change := range update.ChangeSet {
		if change.Name != configuration {
			return fmt.Errorf("only a part of the configuration was told: %s", change.Name)
		}
		switch v := change.Val.(type) {
		case nil:
		case types.HostNetworkInfo:
			s.info = &v
		default:
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
	}
	return nil
}

// Publish brings the feed up to date.
func (s *source) Publish(first bool) {
	if s.info == nil {
		return
	}
	now, err := objects(s.info)
	if err != nil {
		s.networks.log.Error("network left out", "error", err)
	}
	told := &pb.Objects{
		Networks: now.GetNetworks(), Interfaces: now.GetInterfaces(),
		GoneNetworks:   gone(s.told.GetNetworks(), now.GetNetworks(), (*pb.NetworkObject).GetUuid),
		GoneInterfaces: gone(s.told.GetInterfaces(), now.GetInterfaces(), (*pb.InterfaceObject).GetName),
	}
	s.networks.feed.Apply(told)
	s.told = now
	if first {
		s.networks.log.Info("networks read", "networks", len(now.GetNetworks()), "interfaces", len(now.GetInterfaces()))
	}
}

// Lost leaves everything as it was.
func (s *source) Lost(ctx context.Context, cause error) {
	if ctx.Err() == nil {
		s.networks.log.Debug("networks are not followed", "error", cause)
	}
}

// gone lists the keys that were there before and are not now.
func gone[T any](before, now []T, key func(T) string) []string {
	left := map[string]bool{}
	for _, o := range before {
		left[key(o)] = true
	}
	for _, o := range now {
		delete(left, key(o))
	}
	return slices.Sorted(maps.Keys(left))
}

// state is a host's configuration as it was read for a change.
type state struct {
	host   types.ManagedObjectReference
	system types.ManagedObjectReference
	info   *types.HostNetworkInfo
}

// read asks the host for its configuration.
func (n *Networks) read(ctx context.Context) (state, error) {
	host, err := n.host(ctx)
	if err != nil {
		return state{}, err
	}
	s := state{host: host.Reference()}
	return s, n.endpoint.Do(ctx, func(ctx context.Context, c *vim25.Client) error {
		var props mo.HostSystem
		names := []string{configuration, "configManager.networkSystem"}
		if err := property.DefaultCollector(c).RetrieveOne(ctx, s.host, names, &props); err != nil {
			return err
		}
		if props.Config == nil || props.Config.Network == nil || props.ConfigManager.NetworkSystem == nil {
			return verr.New(verr.OperationFailed, "host %s does not tell its network's configuration", s.host.Value).In(verr.FromNetwork)
		}
		s.info, s.system = props.Config.Network, *props.ConfigManager.NetworkSystem
		return nil
	})
}
