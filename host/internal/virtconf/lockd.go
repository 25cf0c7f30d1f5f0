package virtconf

import (
	"errors"
	"fmt"
	"io/fs"
)

// Defaults of virtlockd.conf.
const (
	defaultClients      = 1024
	defaultAdminClients = 5000
	// maxLevel is the highest level of log_level, for errors; 0 leaves the default.
	maxLevel = 4
)

// Lockd is virtlockd.conf.
type Lockd struct {
	// LogLevel is 1 debug, 2 info, 3 warning or 4 error, and 0 if nothing is said.
	LogLevel uint32
	// LogFilters and LogOutputs are lists parted by blanks; empty is the default. They are not checked here.
	LogFilters, LogOutputs string
	// MaxClients and AdminMaxClients bound the connections to the two sockets.
	MaxClients, AdminMaxClients uint32
	// Warnings are sentences about what is likely a mistake.
	Warnings []string
	file     *File
}

// DefaultLockd is what an empty file says.
func DefaultLockd() Lockd {
	return Lockd{MaxClients: defaultClients, AdminMaxClients: defaultAdminClients, file: &File{}}
}

// LoadLockd reads virtlockd.conf. A missing file is the default, unless required says that somebody named it.
func LoadLockd(path string, required bool) (Lockd, error) {
	l := DefaultLockd()
	f, err := Load(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	l.file = f
	l.Warnings = f.Warnings("log_level", "log_filters", "log_outputs", "max_clients", "admin_max_clients")
	err = errors.Join(
		f.Uint("log_level", &l.LogLevel), f.Text("log_filters", &l.LogFilters), f.Text("log_outputs", &l.LogOutputs),
		f.Uint("max_clients", &l.MaxClients), f.Uint("admin_max_clients", &l.AdminMaxClients),
	)
	if err == nil && l.LogLevel > maxLevel {
		err = f.At("log_level", fmt.Errorf("%d is no level: use 1 (debug), 2 (info), 3 (warning) or 4 (error)", l.LogLevel))
	}
	return l, err
}

// At puts file and line of a setting before an error that was found later.
func (l Lockd) At(name string, err error) error { return l.file.At(name, err) }
