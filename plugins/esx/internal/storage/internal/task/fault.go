package task

import (
	"fmt"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// codes are libvirt's codes for faults about files; all others keep the code that package endpoint gives them.
var codes = []struct {
	fault types.BaseMethodFault
	code  verr.Code
	words string
}{
	{&types.FileNotFound{}, verr.NoStorageVol, "there is no such file"},
	{&types.FileAlreadyExists{}, verr.StorageVolExist, "there is such a file already"},
	{&types.FileLocked{}, verr.OperationInvalid, "the file is in use"},
	{&types.NoDiskSpace{}, verr.OperationFailed, "the datastore is full"},
	{&types.CannotAccessFile{}, verr.OperationFailed, "the file cannot be used"},
	{&types.InvalidDatastore{}, verr.NoStoragePool, "there is no such datastore"},
	{&types.InaccessibleDatastore{}, verr.OperationInvalid, "the datastore is out of the host's reach"},
	{&types.InvalidDatastorePath{}, verr.InvalidArg, "the host does not take that path"},
	{&types.NotSupported{}, verr.OperationUnsupported, "the host cannot do that"},
}

// Explain puts an error into libvirt's words, with what was to be done in front. The cause stays for errors.As.
func Explain(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	for _, c := range codes {
		if fault.Is(err, c.fault) {
			return verr.New(c.code, "%s: %s: %w", what, c.words, err).In(verr.FromStorage)
		}
	}
	return verr.New(verr.From(err).Code, "%s: %w", what, err).In(verr.FromStorage)
}

// Answered says whether an error is a fault that the endpoint has answered with, so that asking again would give the same.
func Answered(err error) bool {
	found := false
	fault.In(err, func(types.BaseMethodFault, string, []types.LocalizableMessage) bool {
		found = true
		return true
	})
	return found
}
