package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of the descriptors of firmware.
const (
	maxDescriptor  = 64 << 10
	maxDescriptors = 256
)

// DefaultFirmwareDirs are searched by Firmwares; a descriptor in a later one replaces that of the same file name in an earlier.
var DefaultFirmwareDirs = []string{"/usr/share/qemu/firmware", "/etc/qemu/firmware"}

// Firmware is one firmware image that is installed, by its descriptor. The format of descriptors is public:
// https://www.qemu.org/docs/master/interop/firmware.json (docs/interop/firmware.json in QEMU's tree).
type Firmware struct {
	// Descriptor is the path of the descriptor.
	Descriptor string
	// Description is for people.
	Description string
	// Interfaces are what guests see: "uefi", "bios".
	Interfaces []string
	// Device is where it goes: "flash", "memory" or "kernel".
	Device string
	// Executable and Format are the image and its format ("raw", "qcow2").
	Executable, Format string
	// NVRAMTemplate and NVRAMFormat are what a guest's own variable store starts from, or empty.
	NVRAMTemplate, NVRAMFormat string
	// Features are for example "secure-boot", "enrolled-keys", "requires-smm".
	Features []string
	// Targets are the machines that it is for.
	Targets []FirmwareTarget
}

// FirmwareTarget is a kind of machine.
type FirmwareTarget struct {
	// Arch is libvirt's name of the architecture.
	Arch string
	// Machines are patterns of canonical names: "pc-q35-*".
	Machines []string
}

// descriptor is the file.
type descriptor struct {
	Description    string   `json:"description"`
	InterfaceTypes []string `json:"interface-types"`
	Mapping        struct {
		Device        string       `json:"device"`
		Mode          string       `json:"mode"`
		Executable    firmwareFile `json:"executable"`
		NVRAMTemplate firmwareFile `json:"nvram-template"`
		Filename      string       `json:"filename"`
	} `json:"mapping"`
	Targets []struct {
		Architecture string   `json:"architecture"`
		Machines     []string `json:"machines"`
	} `json:"targets"`
	Features []string `json:"features"`
}

type firmwareFile struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
}

// Firmwares reads the descriptors in dirs, ordered by file name as their format wants. An empty descriptor hides the one that it
// replaces. Broken ones are left out and reported in the error, which may come together with firmware; missing directories
// are no error.
func Firmwares(dirs []string) ([]Firmware, error) {
	byName := map[string]string{}
	var errs []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("list firmware: %w", err))
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".json") && len(byName) < maxDescriptors {
				byName[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	var list []Firmware
	for _, name := range names {
		data, err := readDescriptor(byName[name])
		if err == nil && len(data) == 0 {
			continue
		}
		var f Firmware
		if err == nil {
			f, err = parseDescriptor(data)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read firmware descriptor %q: %w", byName[name], err))
			continue
		}
		f.Descriptor = byName[name]
		list = append(list, f)
	}
	return list, errors.Join(errs...)
}

func readDescriptor(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDescriptor+1))
	if err == nil && len(data) > maxDescriptor {
		err = fmt.Errorf("more than %d bytes", maxDescriptor)
	}
	return data, err
}

func parseDescriptor(data []byte) (Firmware, error) {
	var d descriptor
	if err := json.Unmarshal(data, &d); err != nil {
		return Firmware{}, err
	}
	f := Firmware{
		Description: d.Description, Interfaces: d.InterfaceTypes, Device: d.Mapping.Device, Features: d.Features,
		Executable: d.Mapping.Executable.Filename, Format: d.Mapping.Executable.Format,
		NVRAMTemplate: d.Mapping.NVRAMTemplate.Filename, NVRAMFormat: d.Mapping.NVRAMTemplate.Format,
	}
	switch f.Device {
	case "flash":
	case "memory", "kernel":
		f.Executable, f.Format = d.Mapping.Filename, "raw"
	default:
		return Firmware{}, fmt.Errorf("unknown device %q", f.Device)
	}
	if !path.IsAbs(f.Executable) || (f.NVRAMTemplate != "" && !path.IsAbs(f.NVRAMTemplate)) {
		return Firmware{}, errors.New("an image has no absolute path")
	}
	for _, t := range d.Targets {
		for _, pattern := range t.Machines {
			if _, err := path.Match(pattern, ""); err != nil {
				return Firmware{}, fmt.Errorf("machine pattern %q: %w", pattern, err)
			}
		}
		f.Targets = append(f.Targets, FirmwareTarget{Arch: archOf(t.Architecture), Machines: t.Machines})
	}
	return f, nil
}

// Fits reports whether the firmware is for an architecture and a machine's canonical name.
func (f *Firmware) Fits(arch, machine string) bool {
	for _, t := range f.Targets {
		if t.Arch != arch {
			continue
		}
		for _, pattern := range t.Machines {
			if ok, err := path.Match(pattern, machine); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// Has reports whether the firmware has a feature.
func (f *Firmware) Has(feature string) bool { return slices.Contains(f.Features, feature) }
