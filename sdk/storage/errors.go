package storage

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// SystemError is an error of the system about something, with its number: VIR_ERR_SYSTEM_ERROR of the storage driver. The sentence names
// the thing, so the path that err may have is left out.
func SystemError(err error, format string, args ...any) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	e := verr.New(verr.SystemError, format+": %w", append(args, err)...).In(verr.FromStorage)
	var number unix.Errno
	if errors.As(err, &number) {
		e.Errno = int(number)
	}
	return e
}

// Failed is an error of another program or a server: VIR_ERR_OPERATION_FAILED of the storage driver.
func Failed(format string, args ...any) error {
	return verr.New(verr.OperationFailed, format, args...).In(verr.FromStorage)
}

// NoVolume says that a pool has no volume of a name.
func NoVolume(name string) error {
	return verr.New(verr.NoStorageVol, "no storage vol with matching name '%s'", name).In(verr.FromStorage)
}

// UnknownFlags refuses flags that are not among known.
func UnknownFlags(flags, known uint32) error {
	if flags&^known == 0 {
		return nil
	}
	return verr.New(verr.InvalidArg, "unsupported flags (0x%x)", flags&^known).In(verr.FromStorage)
}
