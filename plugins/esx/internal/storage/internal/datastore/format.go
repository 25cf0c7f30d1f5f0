package datastore

import (
	"path"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Formats of volumes.
const (
	vmdkFormat = "vmdk"
	isoFormat  = "iso"
	// flpFormat is what a floppy image is for libvirt.
	flpFormat = poolxml.Raw
)

// formats are the formats of volumes by the ends of their names. Hosts know them in lower case only.
var formats = map[string]string{".vmdk": vmdkFormat, ".iso": isoFormat, ".flp": flpFormat}

// formatOf is the format of the volume of a name; what has none is no volume.
func formatOf(name string) (string, error) {
	format, ok := formats[path.Ext(name)]
	if !ok {
		return "", refuse(verr.InvalidArg, "volume name '%s' has an unsupported suffix: .vmdk, .iso and .flp are those of volumes", name)
	}
	return format, nil
}

// hidden begins the name of a file that is being made.
const hidden = ".lodge-making-"

func isHidden(name string) bool { return strings.HasPrefix(path.Base(name), hidden) }

// isDisk says whether a name is that of a virtual disk, which has other files besides.
func isDisk(name string) bool { return formats[path.Ext(name)] == vmdkFormat }
