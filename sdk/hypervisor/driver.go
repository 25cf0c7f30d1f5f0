// Package hypervisor is what the author of a hypervisor driver implements: a type with the six methods of Driver, and as many
// of the optional interfaces (Lifecycle, Console, Screenshooter, Stats, Capabilities, Saver) as the hypervisor can honour. The SDK
// finds out by type assertion which ones a driver has, and registers just those services: a capability is a service that is
// implemented, all else is refused by the core with VIR_ERR_NO_SUPPORT.
//
// The story of a guest is told above the contract, in sdk/proto/lodge/hypervisor/v1/driver.proto; the comment of each RPC there
// binds the method of the same name here.
//
// Calls for different guests arrive concurrently. For one guest at most one call that changes it is under way, except Stop. Every
// context ends at the deadline that the contract declares. Errors are made with package verr; a panic in a method is
// reported to the client as an internal error and logged, and the process lives on.
package hypervisor

import (
	"context"
	"io"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Driver is required.
type Driver interface {
	// Probe tells what the hypervisor can do for a connection.
	Probe(ctx context.Context, req *pb.ProbeRequest) (*pb.ProbeResponse, error)
	// Validate checks and completes a definition, and keeps nothing.
	Validate(ctx context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error)
	// Start brings a guest to life, or leaves nothing behind.
	Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error)
	// Stop ends a guest for sure; a guest that is gone already is a success.
	Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error)
	// Recover says what became of a guest and takes charge of it; it never starts and never ends one.
	Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error)
	// Inspect reads a guest's state from the hypervisor.
	Inspect(ctx context.Context, req *pb.InspectRequest) (*pb.InspectResponse, error)
}

// Lifecycle is optional: changing the state of a living guest.
type Lifecycle interface {
	// Shutdown asks the guest to power off and does not wait.
	Shutdown(ctx context.Context, req *pb.ShutdownRequest) (*pb.ShutdownResponse, error)
	// Reboot asks the guest to reboot and does not wait.
	Reboot(ctx context.Context, req *pb.RebootRequest) (*pb.RebootResponse, error)
	// Reset is the reset button.
	Reset(ctx context.Context, req *pb.ResetRequest) (*pb.ResetResponse, error)
	// Suspend stops the vCPUs.
	Suspend(ctx context.Context, req *pb.SuspendRequest) (*pb.SuspendResponse, error)
	// Resume lets them run again.
	Resume(ctx context.Context, req *pb.ResumeRequest) (*pb.ResumeResponse, error)
}

// Keyboard is optional beside Lifecycle: without it SendKey and InjectNMI answer VIR_ERR_NO_SUPPORT.
type Keyboard interface {
	// SendKey presses keys together and releases them.
	SendKey(ctx context.Context, req *pb.SendKeyRequest) (*pb.SendKeyResponse, error)
	// InjectNMI sends a non-maskable interrupt.
	InjectNMI(ctx context.Context, req *pb.InjectNMIRequest) (*pb.InjectNMIResponse, error)
}

// Devices is optional: changing the devices of a living guest. A change that was cut off is settled by Recover.
type Devices interface {
	// AttachDevice plugs a device in, or leaves nothing of it.
	AttachDevice(ctx context.Context, req *pb.AttachDeviceRequest) (*pb.AttachDeviceResponse, error)
	// DetachDevice asks the guest to give a device up, and says whether it is gone.
	DetachDevice(ctx context.Context, req *pb.DetachDeviceRequest) (*pb.DetachDeviceResponse, error)
	// UpdateDevice changes the medium of a drive, the link of a network card and the like.
	UpdateDevice(ctx context.Context, req *pb.UpdateDeviceRequest) (*pb.UpdateDeviceResponse, error)
}

// Console is optional: connecting to character devices.
type Console interface {
	// OpenConsole connects to a device. Read returns io.EOF when the device or the guest is gone; Close unblocks Read and
	// Write. The context is that of the whole connection.
	OpenConsole(ctx context.Context, target *pb.ConsoleTarget) (io.ReadWriteCloser, error)
}

// Screenshooter is optional beside Console: reading the screen.
type Screenshooter interface {
	// Screenshot returns a picture and its MIME type; the SDK closes the picture.
	Screenshot(ctx context.Context, req *pb.ScreenshotRequest) (mime string, picture io.ReadCloser, err error)
}

// Stats is optional: measuring a living guest. The SDK calls it for many guests concurrently, each with its own deadline.
type Stats interface {
	// GuestStats returns the figures of the groups (bits of pb.StatsGroup) with libvirt's names.
	GuestStats(ctx context.Context, guest *pb.GuestHandle, groups uint32) ([]*pb.Stat, error)
}

// Capabilities is optional: what kinds of guest may have.
type Capabilities interface {
	// DomainCapabilities returns libvirt's <domainCapabilities> document.
	DomainCapabilities(ctx context.Context, req *pb.DomainCapabilitiesRequest) (*pb.DomainCapabilitiesResponse, error)
	// CPUModels lists the names of an architecture's CPU models.
	CPUModels(ctx context.Context, req *pb.CPUModelsRequest) (*pb.CPUModelsResponse, error)
}

// Saver is optional beside Lifecycle: writing the state of a guest into a file, and starting a guest from one. The contract's
// save.proto tells the order of things, and what is left when somebody is killed in the middle.
type Saver interface {
	// Save stops the guest, writes its state and leaves it standing. It tells how far it has come, and last that all is written;
	// the SDK repeats what was told last, so that a driver may be silent while nothing moves. When telling fails, the caller is gone.
	Save(ctx context.Context, req *pb.SaveRequest, tell func(*pb.SaveResponse) error) error
	// AbortSave gives a save up and lets the guest go on as it was before it.
	AbortSave(ctx context.Context, req *pb.AbortSaveRequest) (*pb.AbortSaveResponse, error)
	// Restore brings a guest to life that stands where its state was saved, or leaves nothing behind. It tells how much it has read.
	Restore(ctx context.Context, req *pb.RestoreRequest, tell func(*pb.SaveProgress)) (*pb.StartResponse, error)
}
