package probe

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's KVM interface: https://docs.kernel.org/virt/kvm/api.html
const (
	kvmGetAPIVersion  = 0xAE00
	kvmCheckExtension = 0xAE03
	kvmAPIVersion     = 12
	kvmCapNrVCPUs     = 9
	kvmCapMaxVCPUs    = 66
)

// kvmState is what the kernel says about KVM to this process.
type kvmState struct {
	// Usable tells whether the device can be opened and speaks the one version of its interface that there is.
	Usable   bool
	MaxVCPUs int
	// Reason says why it is not usable.
	Reason string
}

func (k kvmState) accelerators() string {
	if k.Usable {
		return "kvm:tcg"
	}
	return "tcg"
}

// checkKVM asks the device at path, normally /dev/kvm.
func checkKVM(path string) kvmState {
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return kvmState{Reason: err.Error()}
	}
	defer dev.Close()
	fd := int(dev.Fd())
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil {
		return kvmState{Reason: fmt.Sprintf("ask %s for its version: %v", path, err)}
	}
	if version != kvmAPIVersion {
		return kvmState{Reason: fmt.Sprintf("%s speaks version %d", path, version)}
	}
	state := kvmState{Usable: true}
	for _, extension := range []uintptr{kvmCapMaxVCPUs, kvmCapNrVCPUs} {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), kvmCheckExtension, extension)
		if errno == 0 && int(n) > 0 {
			state.MaxVCPUs = int(n)
			break
		}
	}
	return state
}
