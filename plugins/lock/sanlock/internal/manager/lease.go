package manager

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/cleanup"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// diskSpace is the name of the lockspace of leases for disks, and of its file.
const diskSpace = cleanup.Space

const md5Size = md5.Size

// diskName is the name of the lease of a disk, and of its file: the MD5 of the disk's path.
func diskName(path string) string {
	sum := md5.Sum([]byte(path))
	return hex.EncodeToString(sum[:])
}

// want is a resource with the lease that stands for it, or nil for a disk that gets none.
type want struct {
	resource *pb.Resource
	lease    *client.Resource
}

// id names a lease within a host.
type id struct{ lockspace, name string }

func idOf(l *client.Resource) id { return id{l.Lockspace, l.Name} }

// wants finds the leases of resources. What sanlock cannot lock is refused.
func (c *config) wants(resources []*pb.Resource) ([]want, error) {
	wants := make([]want, 0, len(resources))
	for _, r := range resources {
		w := want{resource: r}
		switch {
		case r.GetDisk() == "":
			w.lease = namedLease(r)
		case !filepath.IsAbs(r.GetDisk()):
			return nil, verr.New(verr.ConfigUnsupported, "%s cannot be locked: its path is not absolute, so it names no one file", describe(r))
		case c.AutoDiskLeases:
			w.lease = c.diskLease(r)
		}
		if w.lease != nil {
			if err := w.lease.Check(); err != nil {
				return nil, verr.New(verr.ConfigUnsupported, "%s: %w", describe(r), err)
			}
		}
		wants = append(wants, w)
	}
	different := distinct(wants)
	for _, w := range wants {
		if w.lease != nil && different[idOf(w.lease)].lease.Shared != w.lease.Shared {
			return nil, verr.New(verr.ConfigUnsupported, "%s is wanted twice, shared and alone", describe(w.resource))
		}
	}
	if n := len(different); n > client.MaxResources {
		return nil, tooMany(n)
	}
	return wants, nil
}

func tooMany(n int) error {
	return verr.New(verr.ConfigUnsupported, "the guest needs %d leases, and sanlock gives a process at most %d", n, client.MaxResources)
}

func namedLease(r *pb.Resource) *client.Resource {
	return &client.Resource{
		Lockspace: r.GetLockspace(), Name: r.GetKey(), Shared: r.GetShared(),
		Disks: []client.Disk{{Path: r.GetPath(), Offset: r.GetOffset()}},
	}
}

func (c *config) diskLease(r *pb.Resource) *client.Resource {
	name := diskName(r.GetDisk())
	return &client.Resource{
		Lockspace: diskSpace, Name: name, Shared: r.GetShared(),
		Disks: []client.Disk{{Path: filepath.Join(c.DiskLeaseDir, name)}},
	}
}

// distinct returns the leases, each once: a guest may name one twice.
func distinct(wants []want) map[id]want {
	all := make(map[id]want, len(wants))
	for _, w := range wants {
		if w.lease != nil {
			all[idOf(w.lease)] = w
		}
	}
	return all
}

// describe names a resource for people.
func describe(r *pb.Resource) string {
	if r.GetDisk() != "" {
		return fmt.Sprintf("disk %q", r.GetDisk())
	}
	return fmt.Sprintf("lease %q of lockspace %q", r.GetKey(), r.GetLockspace())
}

// place says where a lease lies.
func place(l *client.Resource) string {
	return fmt.Sprintf("%s:%s:%s:%d", l.Lockspace, l.Name, l.Disks[0].Path, l.Disks[0].Offset)
}

// missing is the answer about a disk that has no lease.
func missing(who *pb.Owner, r *pb.Resource) *pb.Lease {
	return &pb.Lease{Owner: who, Resource: r, Detail: "disks have no leases of their own: auto_disk_leases is off"}
}
