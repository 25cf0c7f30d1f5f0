package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/ownership"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// giveFiles gives files that a guest uses to its user, and notes each, so that it is taken back at the end. It returns those that it has
// given, on an error too.
func (l *life) giveFiles(to label, list []target) (given []target, err error) {
	for _, t := range list {
		owner, ok, err := to.whom(t)
		if err != nil {
			return given, err
		}
		if !ok {
			continue
		}
		switch err := l.giveFile(owner, t); {
		case errors.Is(err, fs.ErrNotExist):
			continue // QEMU says so better
		case err != nil:
			return given, err
		}
		given = append(given, t)
	}
	return given, nil
}

func (l *life) giveFile(to ownership.Owner, t target) error {
	l.files.Lock()
	defer l.files.Unlock()
	if l.removed {
		return errNotRunning
	}
	if t.create {
		if err := makeEmpty(t.Path); err != nil {
			return err
		}
	}
	err := l.keeper.Give(t.Path, to, t.Shared)
	if errors.Is(err, ownership.ErrInUse) {
		return verr.New(verr.OperationInvalid, "Setting different DAC user or group on %s which is already in use", t.Path)
	}
	if err != nil {
		return err
	}
	if err := l.folder.noteGiven(t); err != nil {
		return errors.Join(err, l.keeper.TakeBack(t.Path, t.Shared))
	}
	return nil
}

// takeBack gives back some of the files that the guest's user was given. It is no longer noted before it is done: a file that stays the
// guests' is a lesser evil than one that is taken from another guest.
func (l *life) takeBack(list []target) {
	l.files.Lock()
	defer l.files.Unlock()
	if l.removed {
		return // all were given back
	}
	given, err := l.folder.given()
	if err != nil {
		l.log.Warn("files of guest not given back", "error", err)
		return
	}
	for _, t := range list {
		at := slices.IndexFunc(given, func(g target) bool { return g.Path == t.Path && g.Shared == t.Shared })
		if at < 0 {
			continue
		}
		given = slices.Delete(given, at, at+1)
		err := l.folder.writeGiven(given)
		if err == nil {
			err = l.keeper.TakeBack(t.Path, t.Shared)
		}
		if err != nil {
			l.log.Warn("file of guest not given back", "path", t.Path, "error", err)
		}
	}
}

// makeEmpty makes a file where the guest's user may not, unless it exists.
func makeEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return verr.New(verr.SystemError, "Unable to create file '%s': %w", path, err)
	}
	return f.Close()
}

// takeBackFiles gives back what the guest's user was given. Nothing is given or written for the guest from then on.
func (l *life) takeBackFiles() {
	l.files.Lock()
	defer l.files.Unlock()
	l.removed = true
	list, err := l.folder.given()
	if err != nil {
		l.log.Warn("files of guest not given back", "error", err)
	}
	for _, t := range list {
		if err := l.keeper.TakeBack(t.Path, t.Shared); err != nil {
			l.log.Warn("file of guest not given back", "path", t.Path, "error", err)
		}
	}
}

// noteGiven adds a file to the list of those that were given. It is called after the deed: a file that stays the guests' is a
// lesser evil than one that is taken from another guest.
func (f folder) noteGiven(t target) error {
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("note file of guest: %w", err)
	}
	list, err := os.OpenFile(f.path(givenName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("note file of guest: %w", err)
	}
	_, err = list.Write(append(text, '\n'))
	if err := errors.Join(err, list.Close()); err != nil {
		return fmt.Errorf("note file of guest: %w", err)
	}
	return nil
}

// writeGiven replaces the list of those that were given.
func (f folder) writeGiven(list []target) error {
	var text []byte
	for _, t := range list {
		line, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("note files of guest: %w", err)
		}
		text = append(append(text, line...), '\n')
	}
	return f.write(givenName, text)
}

// given returns the files that were given; a line that was cut off ends the list.
func (f folder) given() ([]target, error) {
	text, err := f.read(givenName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []target
	for line := range bytes.Lines(text) {
		var t target
		if err := json.Unmarshal(line, &t); err != nil {
			return list, fmt.Errorf("read files of guest: %w", err)
		}
		list = append(list, t)
	}
	return list, nil
}

// targets returns the files that a live definition names and QEMU opens by itself. Images that only are read, and those below others,
// may be shared.
func targets(live *libvirtxml.Domain) []target {
	var list []target
	add := func(path string, shared bool, labels []libvirtxml.DomainDeviceSecLabel) {
		if path != "" {
			list = append(list, target{Path: path, Shared: shared, labels: labels})
		}
	}
	if o := live.OS; o != nil {
		for _, path := range []string{o.Kernel, o.Initrd, o.DTB} {
			add(path, true, nil)
		}
		if n := o.NVRam; n != nil {
			path, labels := sourceFile(n.Source)
			if path == "" {
				path = n.NVRam
			}
			add(path, false, labels)
		}
	}
	if live.Devices == nil {
		return list
	}
	for i := range live.Devices.Disks {
		list = append(list, diskTargets(&live.Devices.Disks[i])...)
	}
	for _, c := range append(characters(live), channels(live)...) {
		if t := characterFile(c.source); t.Path != "" {
			list = append(list, t)
		}
	}
	return list
}

// diskTargets are the files of a disk.
func diskTargets(d *libvirtxml.DomainDisk) []target {
	var list []target
	if path, labels := sourceFile(d.Source); path != "" {
		list = append(list, target{Path: path, Shared: d.ReadOnly != nil || d.Shareable != nil || d.Device == "cdrom", labels: labels})
	}
	for below := d.BackingStore; below != nil; below = below.BackingStore {
		if path, labels := sourceFile(below.Source); path != "" {
			list = append(list, target{Path: path, Shared: true, labels: labels})
		}
	}
	return list
}

func sourceFile(s *libvirtxml.DomainDiskSource) (string, []libvirtxml.DomainDeviceSecLabel) {
	switch {
	case s == nil:
		return "", nil
	case s.File != nil:
		return s.File.File, s.File.SecLabel
	case s.Block != nil:
		return s.Block.Dev, s.Block.SecLabel
	}
	return "", nil
}

// characterFile returns the device, pipe or file behind a character device.
func characterFile(s *libvirtxml.DomainChardevSource) target {
	switch {
	case s.Dev != nil:
		return target{Path: s.Dev.Path, labels: s.Dev.SecLabel}
	case s.Pipe != nil:
		return target{Path: s.Pipe.Path, labels: s.Pipe.SecLabel}
	case s.File != nil:
		return target{Path: s.File.Path, create: true, labels: s.File.SecLabel}
	}
	return target{}
}
