package lockserver

import (
	"strings"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// maxDetail bounds the detail of a listed lease, in bytes.
const maxDetail = 4096

func ownerOf(o lockproto.Owner) leases.Owner {
	return leases.Owner{
		UUID: o.UUID, Name: strings.ToValidUTF8(o.Name, "?"), ID: o.ID, Generation: o.Generation,
		Process: process.ID{PID: o.PID, StartTime: o.StartTime},
	}
}

func resourcesOf(in []lockproto.Resource) []lockspace.Resource {
	out := make([]lockspace.Resource, len(in))
	for i, r := range in {
		out[i] = lockspace.Resource{
			Lockspace: r.Lockspace, Name: r.Name, Disk: r.Disk, Mode: lockspace.Mode(r.Shared), Temporary: r.Temporary,
		}
	}
	return out
}

// list is a lockproto.LeaseList and what follows it.
type list struct {
	lockproto.LeaseList
	Rest lockproto.LeaseRest
}

func listOf(in []leases.Info, more bool) *list {
	out := &list{
		LeaseList: lockproto.LeaseList{Leases: make([]lockproto.Lease, len(in)), More: more},
		Rest:      lockproto.LeaseRest{Leases: make([]lockproto.LeaseMore, len(in))},
	}
	for i, l := range in {
		out.Leases[i] = lockproto.Lease{
			Number: l.Number, Classic: l.Owner.Classic, Path: l.Resource.Path(), State: uint32(l.State),
			Detail: l.Detail[:min(len(l.Detail), maxDetail)], SinceMS: l.Since.UnixMilli(),
			Owner: lockproto.Owner{
				UUID: l.Owner.UUID, Name: l.Owner.Name[:min(len(l.Owner.Name), 1024)], ID: l.Owner.ID, Generation: l.Owner.Generation,
				PID: l.Owner.Process.PID, StartTime: l.Owner.Process.StartTime,
			},
			Resource: lockproto.Resource{
				Lockspace: l.Resource.Lockspace, Name: l.Resource.Name, Disk: l.Resource.Disk,
				Shared: bool(l.Resource.Mode), Temporary: l.Resource.Temporary,
			},
		}
		out.Rest.Leases[i] = lockproto.LeaseMore{POSIX: l.Kind == lockspace.POSIX, Unknown: l.Owner.Unknown}
	}
	return out
}
