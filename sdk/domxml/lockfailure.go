package domxml

import (
	"slices"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// onLockFailure is the element that says what happens to a guest whose lock is lost. libvirtxml does not know it.
const onLockFailure = "on_lockfailure"

var lockFailureActions = []string{"poweroff", "restart", "pause", "ignore"}

// OnLockFailure returns what a definition says in <on_lockfailure>: "poweroff", "restart", "pause", "ignore", or "" where it says
// nothing. It fails with XMLError as Parse does, and for another word.
func OnLockFailure(doc string) (string, error) {
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	e, ok := o.child(onLockFailure)
	if !ok {
		return "", nil
	}
	action := unescape(doc[e.open:e.shut])
	if !slices.Contains(lockFailureActions, action) {
		return "", verr.New(verr.XMLError, "unknown lock failure action '%s'", action)
	}
	return action, nil
}

// SetOnLockFailure puts <on_lockfailure> into a definition that has none, where libvirt prints it; it leaves one that has as it is, and
// every one if action is "".
func SetOnLockFailure(doc, action string) (string, error) {
	if action == "" {
		return doc, nil
	}
	o, err := readOutline(doc)
	if err != nil {
		return "", err
	}
	if _, has := o.child(onLockFailure); has {
		return doc, nil
	}
	at := o.root.shut
	for _, before := range []string{"on_crash", "on_reboot", "on_poweroff"} {
		if e, ok := o.child(before); ok {
			at = e.end
			return doc[:at] + "\n  <" + onLockFailure + ">" + action + "</" + onLockFailure + ">" + doc[at:], nil
		}
	}
	return doc[:at] + "  <" + onLockFailure + ">" + action + "</" + onLockFailure + ">\n" + doc[at:], nil
}
