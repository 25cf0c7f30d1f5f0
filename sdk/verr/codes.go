package verr

// Code is libvirt's virErrorNumber.
type Code int32

// Codes that Lodge and its drivers return; every other number of libvirt's may be used as Code(n).
const (
	OK                   Code = 0
	Internal             Code = 1
	NoMemory             Code = 2
	NoSupport            Code = 3
	UnknownHost          Code = 4
	NoConnect            Code = 5
	InvalidConn          Code = 6
	InvalidDomain        Code = 7
	InvalidArg           Code = 8
	OperationFailed      Code = 9
	OSType               Code = 16
	XMLError             Code = 27
	DomainExists         Code = 28
	OperationDenied      Code = 29
	SystemError          Code = 38
	RPC                  Code = 39
	NoDomain             Code = 42
	NoNetwork            Code = 43
	InvalidMAC           Code = 44
	AuthFailed           Code = 45
	NoStoragePool        Code = 49
	NoStorageVol         Code = 50
	NoNodeDevice         Code = 53
	OperationInvalid     Code = 55
	NoInterface          Code = 57
	MultipleInterfaces   Code = 59
	NoNWFilter           Code = 62
	InvalidSecret        Code = 65
	NoSecret             Code = 66
	ConfigUnsupported    Code = 67
	OperationTimeout     Code = 68
	NoDomainSnapshot     Code = 72
	ArgumentUnsupported  Code = 74
	StorageProbeFailed   Code = 75
	StoragePoolBuilt     Code = 76
	SnapshotRevertRisky  Code = 77
	OperationAborted     Code = 78
	AuthCancelled        Code = 79
	NoDomainMetadata     Code = 80
	MigrateUnsafe        Code = 81
	Overflow             Code = 82
	OperationUnsupported Code = 84
	AgentUnresponsive    Code = 86
	ResourceBusy         Code = 87
	AccessDenied         Code = 88
	StorageVolExist      Code = 90
	CPUIncompatible      Code = 91
	XMLInvalidSchema     Code = 92
	AuthUnavailable      Code = 94
	NoServer             Code = 95
	NoClient             Code = 96
	DeviceMissing        Code = 99
	NoDomainCheckpoint   Code = 103
	maxCode              Code = 110
)

// Domain is libvirt's virErrorDomain: the part of libvirt that an error comes from.
type Domain int32

// Domains that Lodge and its drivers use.
const (
	FromNone           Domain = 0
	FromRPC            Domain = 7
	FromQEMU           Domain = 10
	FromTest           Domain = 12
	FromRemote         Domain = 13
	FromLXC            Domain = 17
	FromStorage        Domain = 18
	FromNetwork        Domain = 19
	FromDomain         Domain = 20
	FromNodeDevice     Domain = 22
	FromInterface      Domain = 26
	FromESX            Domain = 28
	FromSecret         Domain = 30
	FromCPU            Domain = 31
	FromNWFilter       Domain = 33
	FromDomainSnapshot Domain = 35
	FromStreams        Domain = 38
	FromLocking        Domain = 42
	FromParallels      Domain = 48
	FromDevice         Domain = 49
	FromLockspace      Domain = 51
	FromAdmin          Domain = 62
	maxDomain          Domain = 72
)
