package door

import (
	"strings"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Programs on libvirt's socket, beside rpc.KeepaliveProgram.
const (
	remoteProgram uint32 = 0x20008086
	qemuProgram   uint32 = 0x20008087
	lxcProgram    uint32 = 0x00068000
	// programVersion is the version of all of them.
	programVersion uint32 = 1
)

// flag says how a procedure may be called.
type flag uint16

const (
	// changes: refused over read-only connections.
	changes flag = 1 << iota
	// reveals: refused over read-only connections with some flags, which the handler checks.
	reveals
	// high: libvirt answers it even when all its ordinary workers are stuck, so it must never wait for a hung driver that
	// other calls wait for.
	high
	// early: may be called before OPEN.
	early
	// goodbye: the connection ends after the reply.
	goodbye
	// pools, secrets, networks and interfaces: served only where the connection has them.
	pools
	secrets
	networks
	interfaces
	// message: an event's number, which only the server sends.
	message
	// long: takes as long as storage or a guest's memory makes it take, until somebody cancels the job.
	long
)

// procedure is one row of a program's table.
type procedure struct {
	// name is libvirt's, without the program's prefix.
	name  string
	flags flag
	// handler is nil for what is known and not supported.
	handler *handler
}

// last reports whether the connection ends with the procedure's reply.
func (p *procedure) last() bool { return p.flags&goodbye != 0 }

// errorDomains are the error domains of libvirt's kinds of object by how procedures' names begin; the first that fits counts.
var errorDomains = []struct {
	prefix string
	domain verr.Domain
}{
	{"auth_", verr.FromRPC},
	{"domain_snapshot", verr.FromDomainSnapshot},
	{"domain_checkpoint", 69},
	{"domain_", verr.FromDomain},
	{"network_", verr.FromNetwork},
	{"interface_", verr.FromInterface},
	{"storage_", verr.FromStorage},
	{"node_device_", verr.FromNodeDevice},
	{"nwfilter_", verr.FromNWFilter},
	{"secret_", verr.FromSecret},
	{"connect_list_all_networks", verr.FromNetwork},
	{"connect_list_all_interfaces", verr.FromInterface},
	{"connect_list_all_storage", verr.FromStorage},
	{"connect_list_all_node_devices", verr.FromNodeDevice},
	{"connect_list_all_nwfilter", verr.FromNWFilter},
	{"connect_list_all_secrets", verr.FromSecret},
	{"connect_list_domains", verr.FromDomain},
	{"connect_list_all_domains", verr.FromDomain},
	{"connect_get_all_domain_stats", verr.FromDomain},
}

// domain is the error domain of the kind of object that the procedure is about.
func (p *procedure) domain() verr.Domain {
	for _, e := range errorDomains {
		if strings.HasPrefix(p.name, e.prefix) {
			return e.domain
		}
	}
	return verr.FromNone
}

// tableOf returns a program's procedures by number, or nil.
func tableOf(program uint32) []procedure {
	switch program {
	case remoteProgram:
		return remoteProcedures[:]
	case qemuProgram:
		return qemuProcedures[:]
	case lxcProgram:
		return lxcProcedures[:]
	}
	return nil
}

// find returns the procedure that a call means. Its errors are the RPC layer's; clients fall back to older calls when they
// read "unknown procedure".
func find(h rpc.Header) (*procedure, error) {
	table := tableOf(h.Program)
	if table == nil || h.Version != programVersion {
		return nil, verr.New(verr.RPC, "cannot find program %d version %d", h.Program, h.Version)
	}
	if h.Procedure <= 0 || int(h.Procedure) >= len(table) || table[h.Procedure].flags&message != 0 {
		return nil, verr.New(verr.RPC, "unknown procedure: %d", h.Procedure)
	}
	if h.Status != rpc.OK {
		return nil, verr.New(verr.RPC, "unexpected message status %d", h.Status)
	}
	return &table[h.Procedure], nil
}
