package domain

import (
	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// inactiveID is libvirt's id of a domain that does not run.
const inactiveID = -1

// state is all that is known of a domain at one moment. It is replaced as a whole and never changed in place.
type state struct {
	View
	phase catalog.Phase
	// reservedID is the id that an intent to start has taken.
	reservedID int32
	paused     bool
	seed       bool
	hasSecrets bool
	handle     *pb.Handle
	// lockState is what the lock manager wants when a suspended guest goes on.
	lockState []byte
	// saving is a save under way, restoring a start from a file; resume says that a restored guest is still to be let run.
	saving    *catalog.Saving
	restoring *catalog.Restoring
	resume    bool
	// volumes are what the volumes stand for that disks of the guest name, perhaps with some that it has no more.
	volumes []catalog.DiskVolume
	// loose are locks that may be held and are to be freed unless the live definition needs them.
	loose Wants
	// hidden: a definition is being made and not yet on disk.
	hidden bool
	// gone: the domain was removed; whoever still holds it gets NoDomain.
	gone bool
}

// record is what the catalog keeps of a state.
func (s *state) record() *catalog.Domain {
	r := &catalog.Domain{
		UUID: s.UUID, Name: s.Name, Persistent: s.Persistent, Autostart: s.Autostart, Updated: s.Updated, Seed: s.seed,
		Summary: catalog.Summary{
			Title: s.Title, OSType: s.OSType, MaxMemoryKiB: s.MaxMemoryKiB, MemoryKiB: s.MemoryKiB,
			MaxVCPUs: s.MaxVCPUs, VCPUs: s.VCPUs, HasSecrets: s.hasSecrets,
		},
		Generation: s.Generation, Phase: s.phase, Paused: s.paused, LockState: s.lockState,
		Saved: s.Saved, Saving: s.saving, Restoring: s.restoring, Resume: s.resume, Volumes: s.volumes, Loose: s.loose.record(),
	}
	if s.phase != catalog.Inactive {
		r.ID = s.reservedID
	}
	if h := s.handle; h != nil {
		r.Handle = &catalog.Handle{
			Version: h.Version, Data: h.Data, PID: h.Pid, StartTime: h.StartTime, Cgroup: h.Cgroup,
		}
	}
	return r
}

// fromRecord is the state of a domain when the core starts: an active one is shown as running until its driver says more.
func fromRecord(r *catalog.Domain) state {
	s := state{
		View: View{
			UUID: r.UUID, Name: r.Name, ID: inactiveID, State: ShutOff, Persistent: r.Persistent,
			Autostart: r.Autostart, Updated: r.Updated, Title: r.Summary.Title, OSType: r.Summary.OSType,
			MaxMemoryKiB: r.Summary.MaxMemoryKiB, MemoryKiB: r.Summary.MemoryKiB,
			MaxVCPUs: r.Summary.MaxVCPUs, VCPUs: r.Summary.VCPUs, Generation: r.Generation, Saved: r.Saved,
		},
		phase: r.Phase, paused: r.Paused, seed: r.Seed, hasSecrets: r.Summary.HasSecrets,
		lockState: r.LockState, saving: r.Saving, restoring: r.Restoring, resume: r.Resume, volumes: r.Volumes, loose: wantsFrom(r.Loose),
	}
	if h := r.Handle; h != nil {
		s.handle = &pb.Handle{Version: h.Version, Data: h.Data, Pid: h.PID, StartTime: h.StartTime, Cgroup: h.Cgroup}
		s.PID = h.PID
	}
	switch r.Phase {
	case catalog.Active:
		s.reservedID, s.ID, s.State = r.ID, r.ID, Running
		if s.saving != nil || s.resume {
			s.State = Paused
		}
	case catalog.Starting:
		s.reservedID = r.ID
	case catalog.Inactive:
	}
	return s
}

// describe puts what a definition says into a state.
func (s *state) describe(sum *pb.Summary) {
	s.Title, s.OSType, s.hasSecrets = sum.GetTitle(), sum.GetOsType(), sum.GetHasSecrets()
	s.MaxMemoryKiB, s.MemoryKiB = sum.GetMaxMemoryKib(), sum.GetMemoryKib()
	s.MaxVCPUs, s.VCPUs = sum.GetMaxVcpus(), sum.GetVcpus()
}
