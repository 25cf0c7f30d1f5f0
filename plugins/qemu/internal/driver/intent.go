package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// intentName is the file with the change of a device that is under way.
const intentName = "intent.json"

// intent is a change of a device that was begun.
type intent struct {
	// Alias is that of the device, empty for one that QEMU knows nothing of.
	Alias string `json:"alias"`
	// Live is the live definition once it is done.
	Live string `json:"live"`
	// Medium says that the medium of a drive is changed, else a device is plugged in.
	Medium bool `json:"medium,omitempty"`
	// Old and New are the block nodes of the media, empty for none.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Drop closes the old medium once the new one is in.
	Drop []cmdline.Order `json:"drop,omitempty"`
	// Undo takes back what came before the device itself, Finish is to be told QEMU once it is there.
	Undo   []cmdline.Order `json:"undo,omitempty"`
	Finish []cmdline.Order `json:"finish,omitempty"`
	// Locks are the names of the descriptors of locks that QEMU has got for it, and User who uses them.
	Locks []string `json:"locks,omitempty"`
	User  string   `json:"user,omitempty"`
	// Given are files that were given to the guest's user for it, Back those that are to be taken back once it is done.
	Given []target `json:"given,omitempty"`
	Back  []target `json:"back,omitempty"`
}

// write notes the change.
func (i *intent) write(l *life) error {
	text, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("note change of device: %w", err)
	}
	l.devices.unsettled.Store(true)
	return l.put(intentName, text)
}

// readIntent returns the change that was begun and not ended, or nil.
func (l *life) readIntent() (*intent, error) {
	text, err := l.folder.read(intentName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i := &intent{}
	if err := json.Unmarshal(text, i); err != nil {
		return nil, fmt.Errorf("read change of device: %w", err)
	}
	return i, nil
}

// dropIntent forgets the change: it is done, or taken back.
func (l *life) dropIntent() error {
	if err := os.Remove(l.folder.path(intentName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end change of device: %w", err)
	}
	l.devices.unsettled.Store(false)
	return nil
}

// settleIntent ends a change that was cut off: it goes on with one that QEMU has made, and takes back what there is of another one. The
// caller has the turn, or is alone with the life.
func (l *life) settleIntent(ctx context.Context, t talk) error {
	i, err := l.readIntent()
	if err != nil {
		return err
	}
	if i == nil {
		l.devices.unsettled.Store(false)
		return nil
	}
	happened, err := l.happened(ctx, t, i)
	if err != nil {
		return err
	}
	l.log.Info("change of a device was cut off", "device", i.Alias, "happened", happened)
	if happened {
		return l.complete(ctx, t, i)
	}
	return l.takeBackIntent(ctx, t, i)
}

// undo ends a change that has failed, and returns why it has. One whose answer was lost may have been made after all, and what cannot be
// taken back now is settled later.
func (l *life) undo(ctx context.Context, t talk, i *intent, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := l.settleIntent(ctx, t); err != nil {
		l.log.Warn("change of a device is not taken back yet", "device", i.Alias, "error", err)
		return errors.Join(cause, err)
	}
	return cause
}

// happened asks QEMU whether a change was made. A medium that is out already is put in.
func (l *life) happened(ctx context.Context, t talk, i *intent) (bool, error) {
	if i.Medium {
		return l.insertWhatIsOpen(ctx, t, i)
	}
	if i.Alias == "" {
		return l.xml() == i.Live, nil
	}
	present, err := peripherals(ctx, t)
	return slices.Contains(present, i.Alias), err
}

// complete makes a change true that QEMU has made.
func (l *life) complete(ctx context.Context, t talk, i *intent) error {
	live, err := l.parseLive(i.Live)
	if err != nil {
		return fmt.Errorf("end change of device: %w", err)
	}
	for _, o := range i.Finish {
		if err := t.tell(ctx, o); err != nil {
			if !isRefusal(err) {
				return err
			}
			l.log.Warn("device of guest is not set up", "device", i.Alias, "order", o.Name, "error", err)
		}
	}
	if err := l.remove(ctx, t, i.Drop...); err != nil {
		return err
	}
	if err := learnPTYs(ctx, t, live); err != nil {
		return err
	}
	if err := l.useLocks(i.User, i.Locks); err != nil {
		return err
	}
	if err := l.pass(ctx); err != nil {
		return err
	}
	if err := l.show(live); err != nil {
		return err
	}
	if err := l.pass(ctx); err != nil {
		return err
	}
	l.takeBack(i.Back)
	return l.dropIntent()
}

// takeBackIntent leaves nothing of a change that QEMU has not made.
func (l *life) takeBackIntent(ctx context.Context, t talk, i *intent) error {
	if i.Medium {
		if err := t.tell(ctx, cmdline.CloseTray(i.Alias)); err != nil && !isRefusal(err) {
			return err
		}
	}
	if err := l.remove(ctx, t, i.Undo...); err != nil {
		return err
	}
	if err := l.closeLocks(ctx, t, i.Locks); err != nil {
		return err
	}
	l.takeBack(i.Given)
	return l.dropIntent()
}

// learnPTYs fills the terminals of new character devices into a live definition.
func learnPTYs(ctx context.Context, t talk, live *libvirtxml.Domain) error {
	unknown := func(c character) bool { return c.source.Pty != nil && c.source.Pty.Path == "" }
	if !slices.ContainsFunc(channels(live), unknown) {
		return nil
	}
	var devices []chardev
	if err := t(ctx, &qmp.Command{Name: "query-chardev", Reply: &devices}); err != nil {
		return err
	}
	files := map[string]string{}
	for _, c := range devices {
		files[c.Label] = c.Filename
	}
	cmdline.SetPTYs(live, files)
	return nil
}

// peripherals lists the devices of a guest that have an alias.
func peripherals(ctx context.Context, t talk) ([]string, error) {
	var list []struct {
		Name string `json:"name"`
	}
	cmd := &qmp.Command{Name: "qom-list", Args: map[string]string{"path": "/machine/peripheral"}, Reply: &list}
	if err := t(ctx, cmd); err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for n := range list {
		names[n] = list[n].Name
	}
	return names, nil
}

// QEMU may hold an image for a moment after its device has gone.
const (
	removeTries = 40
	removePause = 50 * time.Millisecond
)

// remove has QEMU close what is behind a device that is not there. What is gone already is refused, and no error; an image that stays open is.
func (l *life) remove(ctx context.Context, t talk, orders ...cmdline.Order) error {
	for range removeTries {
		var open []string
		for _, o := range orders {
			err := t.tell(ctx, o)
			if err != nil && !isRefusal(err) {
				return err
			}
			if err != nil && o.Name == "blockdev-del" {
				open = append(open, nodeName(o))
			}
		}
		if len(open) == 0 {
			return nil
		}
		nodes, err := blockNodes(ctx, t)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(open, func(n string) bool { return slices.Contains(nodes, n) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(removePause):
		}
	}
	return errors.New("QEMU does not close the image of a device that is gone")
}

// nodeName is the block node that an order names.
func nodeName(o cmdline.Order) string {
	var args struct {
		Node string `json:"node-name"`
	}
	_ = json.Unmarshal(o.Args, &args) // an order that names none is about none
	return args.Node
}

// blockNodes lists QEMU's block nodes.
func blockNodes(ctx context.Context, t talk) ([]string, error) {
	var list []struct {
		Node string `json:"node-name"`
	}
	cmd := &qmp.Command{Name: "query-named-block-nodes", Args: map[string]bool{"flat": true}, Reply: &list}
	if err := t(ctx, cmd); err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for n := range list {
		names[n] = list[n].Node
	}
	return names, nil
}
