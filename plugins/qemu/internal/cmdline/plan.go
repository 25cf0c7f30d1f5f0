// Package cmdline turns a completed domain definition into the command that runs it: QEMU's arguments, the helper processes
// and files that it needs, and the live definition as clients see it while the guest runs.
//
// Build is a pure function of its arguments. What has to be looked up on the machine (free ports, backing files of
// images) is asked of the interfaces in Plan, in the caller's goroutine; nothing is created, opened or started here: the
// caller does that with what Command says. The definition is only read, and different guests may be built at the same time.
//
// Nothing in a definition is ignored silently: an element that this package does not handle is refused by name with
// verr.ConfigUnsupported, see supported. Passwords never appear in the arguments, which every user of the machine can read;
// they are in Command.Passwords, for QMP, and those of disks are encrypted, see Command.SecretKey.
package cmdline

import (
	"io"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Plan is what a start adds to a definition.
type Plan struct {
	// ID is the number of the guest among the active ones, shown to clients; names of implicit taps come from it.
	ID int
	// RuntimeDir is a folder of this life of the guest, for sockets. A socket's path must fit 107 bytes.
	RuntimeDir string
	// StateDir is a folder of the guest that outlives it, for UEFI variables and TPM state.
	StateDir string
	// LogDir is a folder for the logs of helpers.
	LogDir string
	// Env is the QEMU that will run it.
	Env define.Env
	// HostModel is the CPU that mode host-model stands for. Nil: QEMU's nearest, "host" or "max".
	HostModel *libvirtxml.DomainCPU
	// Ports finds free ports for screens; needed only for autoport.
	Ports Ports
	// Images reads what images are backed by. Nil: an image whose definition leaves its backing chain out is opened alone.
	Images Images
	// Secret returns the value of a secret that a disk names. Nil: there are none.
	Secret func(domxml.SecretRef) (value []byte, ok bool)
	// KeyFD is the descriptor from which QEMU will read Command.SecretKey.
	KeyFD int
	// Random is where keys come from; default is crypto/rand.
	Random io.Reader
	// MonitorFD is the descriptor of a listening socket for QMP that QEMU will inherit, or 0: QEMU makes the socket itself.
	MonitorFD int
	// TapFDs are descriptors of taps that QEMU will inherit, by the place of the interface in the definition.
	TapFDs map[int]int
	// TapName is the name under which QEMU was sent the tap of an interface that is plugged in; see Plug.
	TapName string
	// Listen is where screens listen that name no address; default 127.0.0.1.
	Listen string
	// Now is the time for clocks that are relative to it; default is the time of the call.
	Now time.Time
	// NoSandbox leaves out QEMU's seccomp filter, for binaries without it.
	NoSandbox bool
}

// Ports finds free TCP ports.
type Ports interface {
	// Allocate returns a port that is free on the address. Service is "vnc", "vnc-websocket" or "spice". The caller keeps it
	// reserved until QEMU listens or has failed.
	Allocate(service, address string) (int, error)
}

// Images reads image files.
type Images interface {
	// Backing returns what an image of the given format is backed by, or nil if by nothing. It must not guess the format
	// of the image that it is asked about.
	Backing(path, format string) (*Backing, error)
}

// Backing is the image below another.
type Backing struct {
	// Path is absolute.
	Path string
	// Format is the format that the image above names for it.
	Format string
	// Block says that it is a block device.
	Block bool
}

// Command is everything that it takes to run a guest.
type Command struct {
	// Path is the QEMU binary.
	Path string
	// Args are its arguments, without Path.
	Args []string
	// Environment is to be added to that of the process, as NAME=value.
	Environment []string
	// Monitor is the path of the QMP socket on which QEMU will listen; empty with MonitorFD.
	Monitor string
	// Agent is the path of the guest agent's socket, or empty.
	Agent string
	// Folders must exist before QEMU starts, mode 0700.
	Folders []string
	// Copies are files to be made from a template before QEMU starts, unless they exist.
	Copies []Copy
	// Helpers must run and listen before QEMU starts.
	Helpers []Helper
	// Passwords are to be set by QMP before the guest runs.
	Passwords []Password
	// SecretKey is what the secrets in the arguments are encrypted with, to be read from Plan.KeyFD to its end; nil if there are none.
	SecretKey []byte
	// LinksDown are the aliases of interfaces whose link is to be taken down by QMP before the guest runs.
	LinksDown []string
	// BalloonPeriod is how often the guest reports memory statistics, in seconds; 0 for never.
	BalloonPeriod uint
	// BalloonKiB is the memory that the guest shall have at boot, in KiB, if less than all; else 0.
	BalloonKiB uint64
	// Live is the live definition. Paths of ptys are not in it before SetPTYs.
	Live *libvirtxml.Domain
}

// Copy is a file to be made from another.
type Copy struct{ From, To string }

// Helper is a process that serves a guest.
type Helper struct {
	// Name is "swtpm".
	Name string
	// Path is the binary: a name to be looked up in PATH.
	Path string
	// Args are its arguments, without Path.
	Args []string
	// Socket is where it listens; it is ready once that exists.
	Socket string
}

// Password is a password for a screen.
type Password struct {
	// Protocol is "vnc" or "spice".
	Protocol string
	// Password is what QMP's set_password takes.
	Password string
	// ValidTo is when it expires, in QMP's form: "never" or seconds since the epoch.
	ValidTo string
	// Connected says what becomes of viewers: "keep", "disconnect" or "fail".
	Connected string
}

// Build makes the command of a definition that define.Complete has completed for plan.Env.
// It fails with verr.ConfigUnsupported for what this driver cannot run, by name.
func Build(d *libvirtxml.Domain, plan Plan) (*Command, error) {
	if err := CheckSupported(d); err != nil {
		return nil, err
	}
	if plan.Now.IsZero() {
		plan.Now = time.Now()
	}
	if plan.Listen == "" {
		plan.Listen = "127.0.0.1"
	}
	live := Clone(d)
	live.ID = new(plan.ID)
	setAliases(live.Devices)
	b := &builder{
		d: live, dev: live.Devices, plan: plan, q35: define.IsQ35(d.OS.Type.Machine),
		cmd: &Command{Path: d.Devices.Emulator, Live: live},
	}
	for _, part := range parts {
		if err := part(b); err != nil {
			return nil, err
		}
	}
	return b.cmd, b.unlock()
}

// parts are the parts of the command in their order: what is referred to comes before what refers to it.
var parts = []func(*builder) error{
	(*builder).name, (*builder).firmware, (*builder).machine, (*builder).cpu, (*builder).memory, (*builder).smp,
	(*builder).smbios, (*builder).monitor, (*builder).clock, (*builder).power, (*builder).boot, (*builder).iothreads,
	(*builder).controllers, (*builder).hubs, (*builder).disks, (*builder).filesystems, (*builder).interfaces,
	(*builder).serials, (*builder).channels, (*builder).consoles, (*builder).tpms, (*builder).inputs, (*builder).audios,
	(*builder).graphics, (*builder).videos, (*builder).sounds, (*builder).watchdogs, (*builder).redirs,
	(*builder).balloon, (*builder).rngs, (*builder).panics, (*builder).finish,
}

func unsupported(format string, args ...any) error {
	return verr.New(verr.ConfigUnsupported, format, args...)
}
