// Package ident makes the UUIDs by which libvirt's clients know the storage of an ESX host.
//
// The rule is that of libvirt's own ESX driver, so that who comes from there keeps them: the MD5 sum of the mount path of a datastore, of
// the name (IQN) of an iSCSI target, or of the uuid of a SCSI logical unit, all 16 bytes as they are. Functions are pure.
package ident

import (
	"crypto/md5" // the rule, not a protection
	"encoding/hex"
	"strings"

	"github.com/google/uuid"
)

// Of is the UUID for a text, in the form 8-4-4-4-12.
func Of(text string) string { return uuid.UUID(md5.Sum([]byte(text))).String() }

// Disk puts the UUID of a virtual disk into the form 8-4-4-4-12. Hosts write it as "60 00 C2 9b ... -71 53 ...", vCenter servers also with
// dashes. It is empty for what is no UUID.
func Disk(text string) string {
	digits := strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return -1
		}
		return r
	}, text)
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(uuid.UUID{}) {
		return ""
	}
	return uuid.UUID(raw).String()
}
