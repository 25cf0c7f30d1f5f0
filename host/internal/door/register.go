package door

import (
	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

func domainEventCallbackRegisterAny(s *session, args *libvirt.ConnectDomainEventCallbackRegisterAnyArgs) (*libvirt.ConnectDomainEventCallbackRegisterAnyRet, error) {
	cb := callback{kind: aboutDomain, uri: s.connection().URI, eventID: args.EventID}
	if len(args.Dom) > 0 {
		cb.object = object(args.Dom[0].UUID)
	}
	id, err := s.events.register(cb)
	return &libvirt.ConnectDomainEventCallbackRegisterAnyRet{CallbackID: id}, err
}

func domainEventCallbackDeregisterAny(s *session, args *libvirt.ConnectDomainEventCallbackDeregisterAnyArgs) (*void, error) {
	return nil, s.events.deregister(aboutDomain, args.CallbackID)
}

// object is the one object that a callback is for.
func object(id libvirt.UUID) *uuid.UUID {
	u := uuid.UUID(id)
	return &u
}

func poolEventRegisterAny(s *session, args *libvirt.ConnectStoragePoolEventRegisterAnyArgs) (*libvirt.ConnectStoragePoolEventRegisterAnyRet, error) {
	cb := callback{kind: aboutPool, uri: s.connection().Pools.URI(), eventID: args.EventID}
	if len(args.Pool) > 0 {
		cb.object = object(args.Pool[0].UUID)
	}
	id, err := s.events.register(cb)
	return &libvirt.ConnectStoragePoolEventRegisterAnyRet{CallbackID: id}, err
}

func poolEventDeregisterAny(s *session, args *libvirt.ConnectStoragePoolEventDeregisterAnyArgs) (*void, error) {
	return nil, s.events.deregister(aboutPool, args.CallbackID)
}

func secretEventRegisterAny(s *session, args *libvirt.ConnectSecretEventRegisterAnyArgs) (*libvirt.ConnectSecretEventRegisterAnyRet, error) {
	cb := callback{kind: aboutSecret, eventID: args.EventID}
	if len(args.OptSecret) > 0 {
		cb.object = object(args.OptSecret[0].UUID)
	}
	id, err := s.events.register(cb)
	return &libvirt.ConnectSecretEventRegisterAnyRet{CallbackID: id}, err
}

func secretEventDeregisterAny(s *session, args *libvirt.ConnectSecretEventDeregisterAnyArgs) (*void, error) {
	return nil, s.events.deregister(aboutSecret, args.CallbackID)
}

func networkEventRegisterAny(s *session, args *libvirt.ConnectNetworkEventRegisterAnyArgs) (*libvirt.ConnectNetworkEventRegisterAnyRet, error) {
	cb := callback{kind: aboutNetwork, uri: s.connection().URI, eventID: args.EventID}
	if len(args.Net) > 0 {
		cb.object = object(args.Net[0].UUID)
	}
	id, err := s.events.register(cb)
	return &libvirt.ConnectNetworkEventRegisterAnyRet{CallbackID: id}, err
}

func networkEventDeregisterAny(s *session, args *libvirt.ConnectNetworkEventDeregisterAnyArgs) (*void, error) {
	return nil, s.events.deregister(aboutNetwork, args.CallbackID)
}

func domainEventRegister(s *session, _ *void) (*libvirt.ConnectDomainEventRegisterRet, error) {
	err := s.events.setLegacy(eventLifecycle, s.connection().URI)
	return &libvirt.ConnectDomainEventRegisterRet{CbRegistered: 1}, err
}

func domainEventDeregister(s *session, _ *void) (*libvirt.ConnectDomainEventDeregisterRet, error) {
	return &libvirt.ConnectDomainEventDeregisterRet{}, s.events.setLegacy(eventLifecycle, "")
}

func domainEventRegisterAny(s *session, args *libvirt.ConnectDomainEventRegisterAnyArgs) (*void, error) {
	return nil, s.events.setLegacy(args.EventID, s.connection().URI)
}

func domainEventDeregisterAny(s *session, args *libvirt.ConnectDomainEventDeregisterAnyArgs) (*void, error) {
	return nil, s.events.setLegacy(args.EventID, "")
}
