package rig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Image is what a Linux guest boots from.
type Image struct {
	// Kernel is the path of the kernel's image.
	Kernel string
	// Initramfs is the path of the initial file system.
	Initramfs string
	// Disk is the path of the disk that the guest writes its count to.
	Disk string
}

// diskSize is the size of the guest's disk in bytes.
const diskSize = 8 << 20

// modules are what the guest's init needs of a modular kernel: the disk and the power button.
var modules = []string{"virtio_pci", "virtio_blk", "button", "evdev"}

// applets are the commands of busybox that the guest uses.
var applets = []string{"sh", "mount", "insmod", "dd", "usleep", "acpid", "poweroff"}

// guestInit is the guest's first process: it counts on its serial console and in the first sector of its disk, and powers off when
// its button is pressed.
const guestInit = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "$module"; done < /modules
acpid -d -c /etc/acpi &
i=0
while :; do
	echo "tick $i"
	echo "tick $i" | dd of=/dev/vda bs=512 count=1 conv=sync,notrunc,fsync 2>/dev/null
	i=$((i + 1))
	usleep 100000
done
`

// ErrNoGuest says that the machine has no kernel or no busybox for a guest: `make deps` installs both.
var ErrNoGuest = errors.New("no guest kernel or busybox on this machine (make deps)")

// BuildImage makes a guest's kernel, initial file system and disk in a folder. The kernel is $LODGE_GUEST_KERNEL, or what
// `make deps` has put into build/kernel under root (the top of the source tree).
func BuildImage(root, dir string) (*Image, error) {
	kernel, library, err := findKernel(root)
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoGuest, err)
	}
	files, err := guestFiles(busybox, library)
	if err != nil {
		return nil, err
	}
	image := &Image{
		Kernel:    filepath.Join(dir, "vmlinuz"),
		Initramfs: filepath.Join(dir, "initramfs.cpio"),
		Disk:      filepath.Join(dir, "disk.img"),
	}
	text, err := os.ReadFile(kernel)
	if err != nil {
		return nil, fmt.Errorf("read the guest's kernel: %w", err)
	}
	if err := errors.Join(
		os.WriteFile(image.Kernel, text, 0o644),
		os.WriteFile(image.Initramfs, archive(files), 0o644),
		os.WriteFile(image.Disk, nil, 0o644),
		os.Truncate(image.Disk, diskSize),
	); err != nil {
		return nil, fmt.Errorf("write the guest's image: %w", err)
	}
	return image, nil
}

// findKernel returns the kernel's image and the folder of its modules, which may be empty.
func findKernel(root string) (kernel, library string, err error) {
	if kernel = os.Getenv("LODGE_GUEST_KERNEL"); kernel != "" {
		return kernel, os.Getenv("LODGE_GUEST_MODULES"), nil
	}
	for _, top := range []string{filepath.Join(root, "build", "kernel"), "/"} {
		images, err := filepath.Glob(filepath.Join(top, "boot", "vmlinuz-*"))
		if err != nil || len(images) == 0 {
			continue
		}
		kernel = slices.Max(images)
		release := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
		library = filepath.Join(top, "lib", "modules", release)
		if _, err := os.Stat(library); err != nil {
			library = filepath.Join(top, "usr", "lib", "modules", release)
		}
		return kernel, library, nil
	}
	return "", "", fmt.Errorf("%w: nothing in build/kernel/boot nor in /boot", ErrNoGuest)
}

// guestFiles collects the files of the initial file system.
func guestFiles(busybox []byte, library string) ([]entry, error) {
	files := []entry{
		{name: "init", mode: modeFile | 0o755, data: []byte(guestInit)},
		{name: "dev", mode: modeDir | 0o755},
		{name: "proc", mode: modeDir | 0o755},
		{name: "sys", mode: modeDir | 0o755},
		{name: "bin", mode: modeDir | 0o755},
		{name: "etc", mode: modeDir | 0o755},
		{name: "etc/acpi", mode: modeDir | 0o755},
		{name: "etc/acpi/PWRF", mode: modeDir | 0o755},
		{name: "etc/acpi/PWRF/00000080", mode: modeFile | 0o755, data: []byte("#!/bin/sh\necho bye > /dev/console\npoweroff -f\n")},
		{name: "bin/busybox", mode: modeFile | 0o755, data: busybox},
	}
	for _, applet := range applets {
		files = append(files, entry{name: "bin/" + applet, mode: modeLink | 0o777, data: []byte("busybox")})
	}
	paths, err := moduleOrder(library, modules)
	if err != nil {
		return nil, err
	}
	files = append(files, entry{name: "lib", mode: modeDir | 0o755})
	var list bytes.Buffer
	for _, path := range paths {
		data, err := os.ReadFile(filepath.Join(library, path))
		if err != nil {
			return nil, fmt.Errorf("read module of the guest's kernel: %w", err)
		}
		name := "lib/" + filepath.Base(path)
		files = append(files, entry{name: name, mode: modeFile | 0o644, data: data})
		fmt.Fprintf(&list, "/%s\n", name)
	}
	return append(files, entry{name: "modules", mode: modeFile | 0o644, data: list.Bytes()}), nil
}

// moduleOrder returns the paths of modules and of all that they need, each after what it needs, as modules.dep tells. A module that
// the kernel has built in is left out.
func moduleOrder(library string, names []string) ([]string, error) {
	if library == "" {
		return nil, nil
	}
	file, err := os.Open(filepath.Join(library, "modules.dep"))
	if errors.Is(err, os.ErrNotExist) {
		return indexModules(library, names)
	}
	if err != nil {
		return nil, fmt.Errorf("read dependencies of modules: %w", err)
	}
	defer file.Close()
	needs := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		path, rest, _ := strings.Cut(lines.Text(), ":")
		name := strings.TrimSuffix(filepath.Base(path), ".ko")
		// The line names what is needed with the deepest last.
		order := strings.Fields(rest)
		slices.Reverse(order)
		needs[name] = append(order, path)
	}
	var paths []string
	for _, name := range names {
		for _, path := range needs[name] {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

// unpackedOrder is what a kernel package that was unpacked and never installed lacks: modules.dep of the modules above.
var unpackedOrder = []string{
	"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "button", "evdev",
}

// indexModules finds modules without modules.dep, in an order that holds for the modules above.
func indexModules(library string, names []string) ([]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(library, "kernel"), func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(entry.Name(), ".ko"); ok && slices.Contains(unpackedOrder, name) {
			found[name], err = filepath.Rel(library, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("find modules: %w", err)
	}
	var paths []string
	for _, name := range unpackedOrder {
		if path := found[name]; path != "" {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
