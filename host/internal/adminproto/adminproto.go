// Package adminproto is what libvirt's daemons and virt-admin say to each other: the numbers and messages of libvirt's admin program,
// framed by package rpc and encoded by package xdr.
//
// The package holds numbers and types only; it owns nothing, nothing in it fails, and all of it is safe concurrently. Every string
// and every count is bounded by its tag, so that decoding bounds what a client can make the daemon hold.
//
// The facts are those of libvirt's public header <libvirt/libvirt-admin.h> and of its admin protocol in version 9.0.0.
package adminproto

// The program.
const (
	// Program is its number.
	Program uint32 = 0x06900690
	// Version is its version.
	Version uint32 = 1
)

// Procedures.
const (
	ConnectOpen       int32 = 1
	ConnectClose      int32 = 2
	GetLibVersion     int32 = 3
	ListServers       int32 = 4
	LookupServer      int32 = 5
	GetThreadpool     int32 = 6
	SetThreadpool     int32 = 7
	ListClients       int32 = 8
	LookupClient      int32 = 9
	ClientGetInfo     int32 = 10
	ClientClose       int32 = 11
	GetClientLimits   int32 = 12
	SetClientLimits   int32 = 13
	GetLoggingOutputs int32 = 14
	GetLoggingFilters int32 = 15
	SetLoggingOutputs int32 = 16
	SetLoggingFilters int32 = 17
	UpdateTLSFiles    int32 = 18
	SetDaemonTimeout  int32 = 19
)

// Transports of clients.
const (
	TransportUnix uint32 = 0
	TransportTCP  uint32 = 1
	TransportTLS  uint32 = 2
)

// Names of threadpool parameters, all of type uint; minWorkers, maxWorkers and prioWorkers can be set.
const (
	WorkersMin      = "minWorkers"
	WorkersMax      = "maxWorkers"
	WorkersCurrent  = "nWorkers"
	WorkersFree     = "freeWorkers"
	WorkersPriority = "prioWorkers"
	JobQueueDepth   = "jobQueueDepth"
)

// Names of client limits, all of type uint; the two with max can be set.
const (
	ClientsMax                   = "nclients_max"
	ClientsCurrent               = "nclients"
	ClientsUnauthenticatedMax    = "nclients_unauth_max"
	ClientsUnauthenticatedNumber = "nclients_unauth"
)

// Names of what is known of a client.
const (
	InfoReadOnly       = "readonly"        // boolean
	InfoSocketAddress  = "sock_addr"       // string
	InfoSASLUser       = "sasl_user_name"  // string
	InfoTLSName        = "tls_x509_dname"  // string
	InfoUserID         = "unix_user_id"    // int
	InfoUserName       = "unix_user_name"  // string
	InfoGroupID        = "unix_group_id"   // int
	InfoGroupName      = "unix_group_name" // string
	InfoProcessID      = "unix_process_id" // int
	InfoSELinuxContext = "selinux_context" // string
)

// Server names one of a daemon's servers.
type Server struct {
	Name string
}

// Client names a client of a server.
type Client struct {
	Server Server
	ID     uint64
	// Since is when it connected, in seconds after the start of 1970.
	Since     int64
	Transport uint32
}

// Types of parameters' values.
const (
	TypeInt     uint32 = 1
	TypeUint    uint32 = 2
	TypeLlong   uint32 = 3
	TypeUllong  uint32 = 4
	TypeDouble  uint32 = 5
	TypeBoolean uint32 = 6
	TypeString  uint32 = 7
)

// Value is a parameter's type and value: int32, uint32, int64, uint64, float64, int32 for a boolean, or string.
type Value struct {
	D uint32
	I any
}

// Param is a named value.
type Param struct {
	Field string
	Value Value
}

// FlagsArgs are those of procedures that take flags only.
type FlagsArgs struct {
	Flags uint32
}

// LibVersionRet is 1000000 times the major version, 1000 times the minor and once the micro.
type LibVersionRet struct {
	Version uint64
}

// ListServersArgs asks for the servers, or for their number only.
type ListServersArgs struct {
	NeedResults uint32
	Flags       uint32
}

// ListServersRet has the servers if they were asked for, and their number.
type ListServersRet struct {
	Servers []Server `xdr:"max=16384"`
	Number  uint32
}

// LookupServerArgs names a server.
type LookupServerArgs struct {
	Name  string
	Flags uint32
}

// ServerRet is a server that there is.
type ServerRet struct {
	Server Server
}

// ServerArgs are those of procedures about a server.
type ServerArgs struct {
	Server Server
	Flags  uint32
}

// ParamsRet are values of a server's workers or limits.
type ParamsRet struct {
	Params []Param `xdr:"max=32"`
}

// SetParamsArgs changes a server's workers or limits.
type SetParamsArgs struct {
	Server Server
	Params []Param `xdr:"max=32"`
	Flags  uint32
}

// ListClientsArgs asks for a server's clients, or for their number only.
type ListClientsArgs struct {
	Server      Server
	NeedResults uint32
	Flags       uint32
}

// ListClientsRet has the clients if they were asked for, and their number.
type ListClientsRet struct {
	Clients []Client `xdr:"max=16384"`
	Number  uint32
}

// LookupClientArgs names a client by its number.
type LookupClientArgs struct {
	Server Server
	ID     uint64
	Flags  uint32
}

// ClientRet is a client that there is.
type ClientRet struct {
	Client Client
}

// ClientArgs are those of procedures about a client.
type ClientArgs struct {
	Client Client
	Flags  uint32
}

// ClientInfoRet is what is known of a client.
type ClientInfoRet struct {
	Params []Param `xdr:"max=64"`
}

// OutputsRet are the log's outputs and their number.
type OutputsRet struct {
	Outputs string
	Number  uint32
}

// FiltersRet are the log's filters, if there are any, and their number.
type FiltersRet struct {
	Filters *string
	Number  uint32
}

// SetLoggingArgs replaces the log's outputs or filters; nothing means the default outputs or no filters.
type SetLoggingArgs struct {
	Text  *string
	Flags uint32
}

// SetTimeoutArgs says after how many seconds without clients the daemon ends; 0 is never.
type SetTimeoutArgs struct {
	Seconds uint32
	Flags   uint32
}
