package door

import (
	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// Kinds of events of storage pools, secrets and networks: virStoragePoolEventID, virSecretEventID and virNetworkEventID.
const (
	objectLifecycle = 0
	poolRefreshed   = 1
	secretChanged   = 1
)

// The messages without the callback's id, which stands before them.
type (
	poolLifecycleMsg struct {
		Pool          libvirt.StoragePool
		Event, Detail int32
	}
	poolRefreshMsg struct {
		Pool libvirt.StoragePool
	}
	secretLifecycleMsg struct {
		Secret        libvirt.Secret
		Event, Detail int32
	}
	secretChangedMsg struct {
		Secret libvirt.Secret
	}
	networkLifecycleMsg struct {
		Net           libvirt.Network
		Event, Detail int32
	}
)

// poolEvent is an event of a storage pool.
func poolEvent(ev event.Event) []translated {
	pool := libvirt.StoragePool{Name: ev.Name, UUID: libvirt.UUID(ev.UUID)}
	if ev.Pool.Refreshed {
		return modern(poolRefreshed, procStoragePoolEventRefresh, &poolRefreshMsg{pool})
	}
	return modern(objectLifecycle, procStoragePoolEventLifecycle, &poolLifecycleMsg{Pool: pool, Event: ev.Pool.Lifecycle})
}

// secretEvent is an event of a secret.
func secretEvent(ev event.Event) []translated {
	secret := libvirt.Secret{UUID: libvirt.UUID(ev.UUID), UsageType: ev.Secret.UsageType, UsageID: ev.Name}
	if ev.Secret.Changed {
		return modern(secretChanged, procSecretEventValueChanged, &secretChangedMsg{secret})
	}
	return modern(objectLifecycle, procSecretEventLifecycle, &secretLifecycleMsg{Secret: secret, Event: ev.Secret.Lifecycle})
}

// networkEvent is an event of a virtual network.
func networkEvent(ev event.Event) []translated {
	net := libvirt.Network{Name: ev.Name, UUID: libvirt.UUID(ev.UUID)}
	return modern(objectLifecycle, procNetworkEventLifecycle, &networkLifecycleMsg{Net: net, Event: ev.Network.Lifecycle})
}

// modern encodes a message that has no legacy form; one that does not fit the wire is dropped.
func modern(eventID, procedure int32, msg any) []translated {
	body, err := xdr.Append(nil, msg)
	if err != nil {
		return nil
	}
	return []translated{{eventID: eventID, modern: procedure, body: body}}
}
