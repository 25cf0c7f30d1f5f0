package door

import (
	"context"
	"io"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of changes that the door itself has to know; all others are the core's to judge.
const (
	defineKnown   = 1
	destroyKnown  = 1
	undefineKnown = 127
	shutdownKnown = 31
	consoleForce  = 1
	consoleKnown  = 3
	channelKnown  = 1
	// maxKeys is how many keys send-key presses at once.
	maxKeys = 16
)

func domainDefineXML(ctx context.Context, s *session, args *libvirt.DomainDefineXMLArgs) (*libvirt.DomainDefineXMLRet, error) {
	d, err := s.connection().Domains.Define(ctx, args.XML, 0)
	return reply(d, err, func(dom libvirt.Domain) *libvirt.DomainDefineXMLRet { return &libvirt.DomainDefineXMLRet{Dom: dom} })
}

func domainDefineXMLFlags(ctx context.Context, s *session, args *libvirt.DomainDefineXMLFlagsArgs) (*libvirt.DomainDefineXMLFlagsRet, error) {
	if err := checkFlags(uint32(args.Flags), defineKnown, "virDomainDefineXMLFlags"); err != nil {
		return nil, err
	}
	d, err := s.connection().Domains.Define(ctx, args.XML, uint32(args.Flags))
	return reply(d, err, func(dom libvirt.Domain) *libvirt.DomainDefineXMLFlagsRet {
		return &libvirt.DomainDefineXMLFlagsRet{Dom: dom}
	})
}

func domainCreateXML(ctx context.Context, s *session, args *libvirt.DomainCreateXMLArgs) (*libvirt.DomainCreateXMLRet, error) {
	creator, err := domainsThat[connection.Creator](s)
	if err != nil {
		return nil, err
	}
	d, err := creator.Create(ctx, args.XMLDesc, uint32(args.Flags))
	return reply(d, err, func(dom libvirt.Domain) *libvirt.DomainCreateXMLRet { return &libvirt.DomainCreateXMLRet{Dom: dom} })
}

func domainCreate(ctx context.Context, s *session, args *libvirt.DomainCreateArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Start(ctx, 0) })
}

func domainCreateWithFlags(ctx context.Context, s *session, args *libvirt.DomainCreateWithFlagsArgs) (*libvirt.DomainCreateWithFlagsRet, error) {
	d, err := s.domain(args.Dom)
	if err == nil {
		err = d.Start(ctx, args.Flags)
	}
	return reply(d, err, func(dom libvirt.Domain) *libvirt.DomainCreateWithFlagsRet {
		return &libvirt.DomainCreateWithFlagsRet{Dom: dom}
	})
}

func domainDestroy(ctx context.Context, s *session, args *libvirt.DomainDestroyArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Destroy(ctx, 0) })
}

func domainDestroyFlags(ctx context.Context, s *session, args *libvirt.DomainDestroyFlagsArgs) error {
	if err := checkFlags(uint32(args.Flags), destroyKnown, "virDomainDestroyFlags"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error {
		return d.Destroy(ctx, uint32(args.Flags))
	})
}

func domainShutdown(ctx context.Context, s *session, args *libvirt.DomainShutdownArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Shutdown(ctx, 0) })
}

func domainShutdownFlags(ctx context.Context, s *session, args *libvirt.DomainShutdownFlagsArgs) error {
	if err := checkFlags(uint32(args.Flags), shutdownKnown, "virDomainShutdownFlags"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error {
		return d.Shutdown(ctx, uint32(args.Flags))
	})
}

func domainReboot(ctx context.Context, s *session, args *libvirt.DomainRebootArgs) error {
	if err := checkFlags(uint32(args.Flags), shutdownKnown, "virDomainReboot"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error {
		return d.Reboot(ctx, uint32(args.Flags))
	})
}

func domainReset(ctx context.Context, s *session, args *libvirt.DomainResetArgs) error {
	if err := checkFlags(args.Flags, 0, "virDomainReset"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Reset(ctx) })
}

func domainSuspend(ctx context.Context, s *session, args *libvirt.DomainSuspendArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Suspend(ctx) })
}

func domainResume(ctx context.Context, s *session, args *libvirt.DomainResumeArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Resume(ctx) })
}

func domainInjectNMI(ctx context.Context, s *session, args *libvirt.DomainInjectNmiArgs) error {
	if err := checkFlags(args.Flags, 0, "virDomainInjectNMI"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Keyboard) error { return d.InjectNMI(ctx) })
}

func domainSendKey(ctx context.Context, s *session, args *libvirt.DomainSendKeyArgs) error {
	if err := checkFlags(args.Flags, 0, "virDomainSendKey"); err != nil {
		return err
	}
	if n := len(args.Keycodes); n == 0 || n > maxKeys {
		return verr.New(verr.InvalidArg, "%d key codes, from 1 to %d are allowed", n, maxKeys)
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Keyboard) error {
		return d.SendKey(ctx, args.Codeset, args.Holdtime, args.Keycodes)
	})
}

func domainUndefine(ctx context.Context, s *session, args *libvirt.DomainUndefineArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error { return d.Undefine(ctx, 0) })
}

func domainUndefineFlags(ctx context.Context, s *session, args *libvirt.DomainUndefineFlagsArgs) error {
	if err := checkFlags(uint32(args.Flags), undefineKnown, "virDomainUndefineFlags"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error {
		return d.Undefine(ctx, uint32(args.Flags))
	})
}

func domainSetAutostart(ctx context.Context, s *session, args *libvirt.DomainSetAutostartArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Domain) error {
		return d.SetAutostart(ctx, args.Autostart != 0)
	})
}

func domainRename(ctx context.Context, s *session, args *libvirt.DomainRenameArgs) (*libvirt.DomainRenameRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainRename"); err != nil {
		return nil, err
	}
	return &libvirt.DomainRenameRet{}, onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Editor) error {
		return d.Rename(ctx, optional(args.NewName))
	})
}

func domainSetMetadata(ctx context.Context, s *session, args *libvirt.DomainSetMetadataArgs) error {
	var text *string
	if len(args.Metadata) > 0 {
		text = &args.Metadata[0]
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Editor) error {
		return d.SetMetadata(ctx, args.Type, text, optional(args.Key), optional(args.Uri), uint32(args.Flags))
	})
}

func domainOpenConsole(ctx context.Context, s *session, args *libvirt.DomainOpenConsoleArgs) (io.ReadWriteCloser, *void, error) {
	if err := checkFlags(args.Flags, consoleKnown, "virDomainOpenConsole"); err != nil {
		return nil, nil, err
	}
	return openDevice(ctx, s, args.Dom, args.DevName, false, args.Flags)
}

func domainOpenChannel(ctx context.Context, s *session, args *libvirt.DomainOpenChannelArgs) (io.ReadWriteCloser, *void, error) {
	if err := checkFlags(uint32(args.Flags), channelKnown, "virDomainOpenChannel"); err != nil {
		return nil, nil, err
	}
	return openDevice(ctx, s, args.Dom, args.Name, true, uint32(args.Flags))
}

func openDevice(ctx context.Context, s *session, ref libvirt.Domain, name libvirt.OptString, channel bool, flags uint32) (io.ReadWriteCloser, *void, error) {
	d, err := able[connection.Console](s, ref)
	if err != nil {
		return nil, nil, err
	}
	device, err := d.OpenConsole(ctx, optional(name), channel, flags&consoleForce != 0)
	return device, nil, err
}

func domainScreenshot(ctx context.Context, s *session, args *libvirt.DomainScreenshotArgs) (io.ReadWriteCloser, *libvirt.DomainScreenshotRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainScreenshot"); err != nil {
		return nil, nil, err
	}
	d, err := s.domain(args.Dom)
	if err != nil {
		return nil, nil, err
	}
	mime, picture, err := d.Screenshot(ctx, args.Screen)
	if err != nil {
		return nil, nil, err
	}
	return readOnlyDevice{picture}, &libvirt.DomainScreenshotRet{Mime: libvirt.OptString{mime}}, nil
}

// readOnlyDevice is a device that takes no data.
type readOnlyDevice struct{ io.ReadCloser }

func (readOnlyDevice) Write([]byte) (int, error) {
	return 0, verr.New(verr.OperationInvalid, "stream is not writable")
}
