package virtconf

import "errors"

// QEMULockd is qemu-lockd.conf: how libvirt's QEMU driver locks the disks of guests with virtlockd. A host that comes from libvirt
// goes on locking the same things by it.
type QEMULockd struct {
	// AutoDiskLeases: lock the writable disks of guests.
	AutoDiskLeases bool
	// RequireLeaseForDisks: refuse a guest with writable disks and without leases of its own. By default the opposite of
	// AutoDiskLeases.
	RequireLeaseForDisks bool
	// FileLockspaceDir has lock files named by the SHA-256 of a disk's path; empty locks the images themselves.
	FileLockspaceDir string
	// LVMLockspaceDir has lock files named by the UUID of a logical volume; empty is none.
	LVMLockspaceDir string
	// SCSILockspaceDir has lock files named by the SCSI id of a disk; empty is none.
	SCSILockspaceDir string
	// Warnings are sentences about what is likely a mistake.
	Warnings []string
}

// LoadQEMULockd reads qemu-lockd.conf. The error wraps fs.ErrNotExist if there is none; the settings are libvirt's defaults then.
func LoadQEMULockd(path string) (QEMULockd, error) {
	q := QEMULockd{AutoDiskLeases: true}
	f, err := Load(path)
	if err != nil {
		return q, err
	}
	q.Warnings = f.Warnings(
		"auto_disk_leases", "require_lease_for_disks", "file_lockspace_dir", "lvm_lockspace_dir", "scsi_lockspace_dir",
	)
	if err := f.Bool("auto_disk_leases", &q.AutoDiskLeases); err != nil {
		return q, err
	}
	q.RequireLeaseForDisks = !q.AutoDiskLeases
	return q, errors.Join(
		f.Bool("require_lease_for_disks", &q.RequireLeaseForDisks), f.Text("file_lockspace_dir", &q.FileLockspaceDir),
		f.Text("lvm_lockspace_dir", &q.LVMLockspaceDir), f.Text("scsi_lockspace_dir", &q.SCSILockspaceDir),
	)
}
