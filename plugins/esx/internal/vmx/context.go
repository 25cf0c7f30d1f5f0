package vmx

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// ErrNoDatastore is what Names.Source returns, perhaps wrapped, for a file on a volume that is not there any more. A CD-ROM drive is
// empty then; for other devices it is an error.
var ErrNoDatastore = errors.New("no such datastore")

// Names translates names of files between both sides.
type Names interface {
	// Source turns a file's name in a .vmx file, relative to it or absolute, into libvirt's "[datastore] folder/file".
	Source(file string) (string, error)
	// File turns libvirt's name into the one for a .vmx file.
	File(source string) (string, error)
}

// hardware are the newest hardware versions that versions of ESX run, from VMware's knowledge base article 1003746; the last is taken for
// all that came later, which run older hardware, too.
var hardware = []struct {
	major, minor, version int
}{
	{3, 0, 4}, {4, 0, 7}, {5, 0, 8}, {5, 1, 9}, {5, 5, 10}, {6, 0, 11}, {6, 5, 13}, {6, 7, 14}, {7, 0, 17}, {8, 0, 20},
}

// HardwareVersion returns the hardware version for the Context of a host: of product "ESX" by its version, "6.7.0" for one, and of product
// "GSX", VMware Server, always the oldest. It fails with Internal for other products and for versions before 3.
func HardwareVersion(product, version string) (int, error) {
	var major, minor int
	if _, err := fmt.Sscanf(version+".0", "%d.%d", &major, &minor); err != nil {
		return 0, verr.New(verr.Internal, "Expecting product version '%s' to be two numbers: %w", version, err)
	}
	if product == "GSX" && major > 0 {
		return oldestVersion, nil
	}
	found := 0
	for _, h := range hardware {
		if major > h.major || major == h.major && minor >= h.minor {
			found = h.version
		}
	}
	if product != "ESX" || found == 0 {
		return 0, verr.New(verr.Internal, "Unsupported product '%s' of version '%s'", product, version)
	}
	return found, nil
}

// Context is what the translation has to know of a host and a machine. Only Names is required.
type Context struct {
	Names Names
	// HardwareVersion is the virtual hardware that Format writes: 4 if it is 0.
	HardwareVersion int
	// SCSIModel finds out the model of a SCSI controller of model "auto" by the image of its first disk.
	SCSIModel func(disk *libvirtxml.DomainDisk) (string, error)
	// DatacenterPath, if not empty, is put into the XML as <vmware:datacenterpath>.
	DatacenterPath string
}

// volumes is where a host has its datastores.
const volumes = "/vmfs/volumes/"

// Folder names files as a host does that has its datastores under /vmfs/volumes, for a .vmx file in one folder.
type Folder struct {
	// Datastore and Path tell where the .vmx file is: [Datastore] Path/name.vmx.
	Datastore, Path string
	// Lookup turns the name of a volume under /vmfs/volumes, often a UUID, into the datastore's name; nil takes all as they are.
	Lookup func(volume string) (datastore string, ok bool)
}

var _ Names = Folder{}

// Source implements Names. Absolute names that are on no volume stay.
func (d Folder) Source(file string) (string, error) {
	if !strings.HasPrefix(file, "/") {
		if d.Path == "" {
			return "[" + d.Datastore + "] " + file, nil
		}
		return "[" + d.Datastore + "] " + d.Path + "/" + file, nil
	}
	rest, ok := strings.CutPrefix(file, volumes)
	if !ok {
		return file, nil
	}
	volume, name, ok := strings.Cut(rest, "/")
	if !ok || volume == "" || name == "" || strings.Contains(volume, "]") {
		return "", verr.New(verr.Internal, "Could not handle file name '%s'", file)
	}
	if d.Lookup != nil {
		datastore, ok := d.Lookup(volume)
		if !ok {
			return "", verr.New(verr.Internal, "File '%s' is on no known datastore: %w", file, ErrNoDatastore)
		}
		volume = datastore
	}
	return "[" + volume + "] " + name, nil
}

// File implements Names.
func (d Folder) File(source string) (string, error) {
	if strings.HasPrefix(source, "/") {
		return source, nil
	}
	rest, ok := strings.CutPrefix(source, "[")
	datastore, name, cut := strings.Cut(rest, "]")
	name = strings.TrimLeft(name, " ")
	if !ok || !cut || datastore == "" || strings.Contains(datastore, "/") || name == "" {
		return "", verr.New(verr.Internal, "Could not handle file name '%s', expecting '[datastore] path'", source)
	}
	return volumes + datastore + "/" + name, nil
}
