package client

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNotRunning says that nobody listens on the daemon's socket.
var ErrNotRunning = errors.New("the sanlock daemon is not running")

// Result is why the daemon has refused a request: a negative number of errno, or one of sanlock's own from -200 down.
type Result int32

// Results that callers tell apart.
const (
	// NotRegistered: the process has made no connection to the daemon.
	NotRegistered = -Result(syscall.ESRCH)
	// Gone: the process has ended.
	Gone = -Result(syscall.ESTALE)
	// Held: a process of this host has the lease.
	Held = -Result(syscall.EEXIST)
	// Busy: the lease is just being taken by a process of this host, or the process is in the middle of another request, or is being
	// killed.
	Busy = -Result(syscall.EBUSY)
	// Again: the lease is just being given up by a process of this host, or other hosts share it, or the lockspace is just being left.
	Again = -Result(syscall.EAGAIN)
	// NoLockspace: this host has not joined the lockspace, or is losing it.
	NoLockspace = -Result(syscall.ENOSPC)
	// Missing: there is no such file, or no such lockspace.
	Missing = -Result(syscall.ENOENT)
	// Exists: this host has joined the lockspace already.
	Exists = -Result(syscall.EEXIST)
	// InProgress: this host is just joining or leaving the lockspace.
	InProgress = -Result(syscall.EINPROGRESS)
	// Invalid: something does not fit, such as a lockspace of the same name or place that this host has joined.
	Invalid = -Result(syscall.EINVAL)
	// NoDevice: the file cannot be opened.
	NoDevice = -Result(syscall.ENODEV)
	// Short: the file ends before the lease does.
	Short = -Result(syscall.EMSGSIZE)
	// Orphan: the lease is one that a process of this host has left behind.
	Orphan = -Result(syscall.EUCLEAN)
	// IOTimeout: the storage does not answer.
	IOTimeout Result = -202
	// NoWatchdog: wdmd, sanlock's watchdog daemon, does not answer.
	NoWatchdog Result = -203
	// NoLease: there is no lease where one was looked for.
	NoLease Result = -223
	// OtherLockspace: the lease is one of another lockspace.
	OtherLockspace Result = -226
	// OtherName: the lease has another name.
	OtherName Result = -227
	// BadHostID: the lockspace has no room for so large a number of a host.
	BadHostID Result = -231
	// OtherVersion: the lease was taken since.
	OtherVersion Result = -240
	// HostLives: another host has the lease, and is well.
	HostLives Result = -243
	// HeldElsewhere and HeldByOther: another host was faster.
	HeldElsewhere Result = -244
	HeldByOther   Result = -245
	// Contended: too many hosts ask for a share of the lease at the same time.
	Contended Result = -246
	// HostSilent: another host has the lease and has not renewed its own, but not for long enough to be dead for sure.
	HostSilent Result = -247
	// HostIDBusy: another host has this host's number.
	HostIDBusy Result = -262
)

// texts say what a result means, where errno's words would mislead.
var texts = map[Result]string{
	NotRegistered: "the process is not registered with the sanlock daemon", Gone: "the process has ended",
	Held: "it exists already", Busy: "it is busy with another request", Again: "it is just being given up, or shared by others",
	NoLockspace: "this host is not in the lockspace", Short: "the file is too short for a lease", Orphan: "an ended process of this host has left the lease behind",
	-201: "general failure", IOTimeout: "the storage does not answer", NoWatchdog: "the watchdog daemon wdmd does not answer",
	-210: "the lease cannot be read", -211: "the lease cannot be written", -214: "the lease is damaged",
	-220: "the lease cannot be read", -221: "the lease cannot be written", -222: "the lease has changed meanwhile",
	NoLease: "there is no lease at that place", -224: "the lease is of another version of sanlock",
	-225: "the lease was made for another sector size", OtherLockspace: "the lease is one of another lockspace",
	OtherName: "the lease has another name", -228: "the lease has too many hosts", -229: "the lease is damaged",
	-230: "the sizes of sector and lease do not fit", BadHostID: "host_id is larger than the lockspace allows",
	OtherVersion: "the lease was taken since", -241: "the lockspace is not known", -242: "the lockspace cannot be read",
	HostLives: "another host has the lease", HeldElsewhere: "another host has the lease", HeldByOther: "another host has the lease",
	Contended:  "too many hosts ask for the lease at the same time",
	HostSilent: "the lease is that of a host that is silent and may live", -250: "the lease was taken since", -251: "another host has the lease",
	-260: "another host has this host's number", -261: "another host has written to this host's own lease",
	HostIDBusy: "another host has this host's number",
}

// Error says what the result means, with its number.
func (r Result) Error() string {
	if text, ok := texts[r]; ok {
		return fmt.Sprintf("%s (sanlock error %d)", text, int32(r))
	}
	if r < 0 && r > -200 {
		return fmt.Sprintf("%v (sanlock error %d)", syscall.Errno(-r), int32(r))
	}
	return fmt.Sprintf("sanlock error %d", int32(r))
}

// failed turns a result into an error: 0 is success, 1 is what sanlock's own functions return for it.
func failed(r Result) error {
	if r == 0 || r == 1 {
		return nil
	}
	return r
}
