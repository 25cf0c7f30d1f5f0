package lockproto

// Our own program, which the core speaks. Its calls may be answered out of order. Errors are libvirt's error struct, of domain
// VIR_FROM_LOCKING (42): RESOURCE_BUSY (87) for a lock that somebody else has, SYSTEM_ERROR (38) with the system's number
// (ESRCH for a process that is gone), INVALID_ARG (8) for names that cannot be used, RPC (39, domain 7) for a malformed call.
const (
	// Program is its number: the letters LDLK.
	Program uint32 = 0x4C444C4B
	// Version is its version. Arguments only ever grow at their end.
	Version uint32 = 1
)

// Procedures of our program.
const (
	// Acquire takes AcquireArgs and returns LeaseList with descriptors: all resources are granted, or none. Repeating it
	// grants the same again. The descriptors are those of the resources from First on, at most MaxFiles; a caller with
	// more repeats the call with a higher First. The reply is of type REPLY_WITH_FDS.
	Acquire int32 = 1
	// SetProcess takes SetProcessArgs and returns nothing: from now on the exit of the process ends the owner's leases.
	SetProcess int32 = 2
	// Release takes ReleaseArgs and returns ReleaseRet. Repeating it is harmless.
	Release int32 = 3
	// List takes ListArgs and returns LeaseList, at most MaxPage leases in ascending order of their numbers.
	List int32 = 4
	// Adopt is Acquire with descriptors in the call (type CALL_WITH_FDS), one for each of the first resources, that may
	// hold the locks already; resources without one may follow. At most MaxFiles resources. It returns LeaseList, without
	// descriptors.
	Adopt int32 = 5
	// Status takes nothing and returns StatusRet.
	Status int32 = 6
	// Watch takes and returns nothing. From now on the connection is told of changes that leases undergo by themselves or by
	// ForceRelease: frames of type MESSAGE with serial 0, the procedure Changed and a Change. A second Watch changes nothing.
	Watch int32 = 7
	// ForceRelease takes ForceReleaseArgs, ends a lease whoever owns it, and returns LeaseList with the lease as it was. A lease that is
	// not there is OPERATION_INVALID (55).
	ForceRelease int32 = 8
	// Changed is the procedure of messages that Watch asks for. It cannot be called.
	Changed int32 = 9
)

const (
	// MaxResources bounds the resources of one call.
	MaxResources = 1024
	// MaxFiles bounds the descriptors of one frame; libvirt's framing allows as many.
	MaxFiles = 32
	// MaxPage bounds the leases in one answer of List.
	MaxPage = 2048
)

// Owner is a guest in one generation. PID and StartTime (field 22 of /proc/PID/stat) are zero while it has no process.
type Owner struct {
	UUID       [16]byte
	Name       string `xdr:"max=1024"`
	ID         uint32
	Generation uint64
	PID        int32
	StartTime  uint64
}

// Resource is what is locked.
type Resource struct {
	// Lockspace is a folder, made if it is missing, or empty: then Name is a path.
	Lockspace string `xdr:"max=4096"`
	Name      string `xdr:"max=4096"`
	// Disk is the image that the lock stands for, to be shown to people.
	Disk      string `xdr:"max=4096"`
	Shared    bool
	Temporary bool
}

// AcquireArgs are those of Acquire and Adopt; Adopt ignores First.
type AcquireArgs struct {
	Owner     Owner
	Resources []Resource `xdr:"max=1024"`
	First     uint32
}

// SetProcessArgs names the process in Owner.
type SetProcessArgs struct {
	Owner Owner
}

// ReleaseArgs names resources, or none for all that the generation has.
type ReleaseArgs struct {
	UUID       [16]byte
	Generation uint64
	Resources  []Resource `xdr:"max=1024"`
}

// ReleaseRet says how many leases ended.
type ReleaseRet struct {
	Released uint32
}

// ListArgs asks for leases with numbers above After.
type ListArgs struct {
	After uint64
}

// Lease is one lease.
type Lease struct {
	Number   uint64
	Owner    Owner
	Classic  bool
	Resource Resource
	Path     string `xdr:"max=8192"`
	// State is 1 held, 2 unproven, 3 lost.
	State  uint32
	Detail string `xdr:"max=16384"`
	// SinceMS is when it was taken, in milliseconds after the start of 1970.
	SinceMS int64
}

// LeaseList is the answer of Acquire, Adopt and List.
type LeaseList struct {
	Leases []Lease `xdr:"max=2048"`
	// More says that List has more leases.
	More bool
}

// LeaseRest follows a LeaseList: what else there is to know of its leases, in their order. Daemons of before do not send it.
type LeaseRest struct {
	Leases []LeaseMore `xdr:"max=2048"`
}

// LeaseMore is what else there is to know of a lease.
type LeaseMore struct {
	// POSIX says that the lock is the daemon's process's, as one that was taken over from virtlockd, so that no guest can inherit it.
	POSIX bool
	// Unknown says that nobody knows whose the lock is.
	Unknown bool
}

// ForceReleaseArgs names a lease.
type ForceReleaseArgs struct {
	Number uint64
}

// Change is what became of a lease.
type Change struct {
	Number uint64
	// State is its state now, or its last one.
	State uint32
	// Ended says that it was ended by force.
	Ended bool
	// Missed says that there were more changes than could be told: all leases have to be listed anew. Then nothing else is set.
	Missed bool
}

// StatusRet is the daemon at a glance.
type StatusRet struct {
	PID       int32
	Version   string `xdr:"max=256"`
	StartedMS int64
	Held      uint32
	Unproven  uint32
	Lost      uint32
	Owners    uint32
	Clients   uint32
}
