package door

import (
	libvirt "github.com/digitalocean/go-libvirt"
)

func domainEventCallbackRegisterAny(s *session, args *libvirt.ConnectDomainEventCallbackRegisterAnyArgs) (*libvirt.ConnectDomainEventCallbackRegisterAnyRet, error) {
	id, err := s.events.register(s.connection().URI, args.EventID, args.Dom)
	return &libvirt.ConnectDomainEventCallbackRegisterAnyRet{CallbackID: id}, err
}

func domainEventCallbackDeregisterAny(s *session, args *libvirt.ConnectDomainEventCallbackDeregisterAnyArgs) (*void, error) {
	return nil, s.events.deregister(args.CallbackID)
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
