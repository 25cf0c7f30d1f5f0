package guests

import (
	"errors"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// failed is an error of this driver's.
func failed(code verr.Code, format string, args ...any) error {
	return verr.New(code, format, args...).In(verr.FromESX)
}

// codes are libvirt's codes for faults, by the fault's type without "Fault" at its end.
var codes = map[string]verr.Code{
	"InvalidPowerState":     verr.OperationInvalid,
	"InvalidState":          verr.OperationInvalid,
	"InvalidHostState":      verr.OperationInvalid,
	"ToolsUnavailable":      verr.AgentUnresponsive,
	"DuplicateName":         verr.OperationFailed,
	"AlreadyExists":         verr.OperationFailed,
	"FileAlreadyExists":     verr.OperationFailed,
	"FileNotFound":          verr.OperationFailed,
	"InvalidDatastorePath":  verr.OperationFailed,
	"InvalidName":           verr.InvalidArg,
	"FileLocked":            verr.ResourceBusy,
	"TaskInProgress":        verr.ResourceBusy,
	"ConcurrentAccess":      verr.ResourceBusy,
	"NoPermission":          verr.AccessDenied,
	"ManagedObjectNotFound": verr.NoDomain,
	"InvalidVmConfig":       verr.ConfigUnsupported,
	"InvalidDeviceSpec":     verr.ConfigUnsupported,
	"NotSupported":          verr.OperationUnsupported,
	"InvalidArgument":       verr.InvalidArg,
	"RequestCanceled":       verr.OperationAborted,
}

// faulty is what all of govmomi's errors that carry a fault implement.
type faulty interface{ Fault() types.BaseMethodFault }

// explain says what failed, with libvirt's code for a fault.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	e := verr.From(err)
	var f faulty
	if errors.As(err, &f) && f.Fault() != nil {
		name, detail := nameOf(f.Fault()), detailOf(f.Fault())
		if code, ok := codes[name]; ok {
			if detail == "" {
				detail = err.Error()
			}
			return failed(code, "%s: %s: %s%.0w", what, name, detail, err)
		}
	}
	return failed(e.Code, "%s: %w", what, err)
}

// nameOf is the type of a fault.
func nameOf(f types.BaseMethodFault) string {
	t := reflect.TypeOf(f)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.TrimSuffix(t.Name(), "Fault")
}

// detailOf says what a fault is about, as far as its text does not.
func detailOf(f types.BaseMethodFault) string {
	switch f := f.(type) {
	case *types.DuplicateName:
		return "the name '" + f.Name + "' is taken"
	case *types.InvalidPowerState:
		return "the machine is " + string(f.ExistingState)
	case *types.ToolsUnavailable:
		return "VMware Tools do not run in the guest"
	case *types.FileNotFound:
		return "there is no file '" + f.File + "'"
	case *types.InvalidDatastorePath:
		return "there is no datastore or folder '" + f.DatastorePath + "'"
	case *types.InvalidName:
		return "'" + f.Name + "' is no name of a machine: it has more than 80 bytes, or characters that it cannot have"
	case *types.FileAlreadyExists:
		return "file '" + f.File + "' is there already"
	case *types.FileLocked:
		return "file '" + f.File + "' is in use"
	case *types.TaskInProgress:
		return "another task of the machine is under way"
	case *types.InvalidDeviceSpec:
		return "the host does not accept '" + f.Property + "'"
	case *types.InvalidVmConfig:
		return "the host does not accept '" + f.Property + "'"
	case *types.InvalidArgument:
		return "the host does not accept '" + f.InvalidProperty + "'"
	}
	return ""
}
