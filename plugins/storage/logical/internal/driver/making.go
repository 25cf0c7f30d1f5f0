package driver

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	"github.com/lodgevirt/lodge/sdk/procfs"
)

// makingPrefix begins the name of a volume that is being made: makingPrefix HOST.BOOT.PID.START.NUMBER. Host and boot are the beginnings
// of the machine's and the boot's ids; with the start time of the process they say whether it is gone. Other hosts that share the group
// make volumes, too, which only they may remove.
const makingPrefix = "lodge_making."

// maker is a process that makes volumes.
type maker struct {
	host, boot string
	pid        int
	start      uint64
}

// thisMaker is this process.
func thisMaker() (maker, error) {
	boot, err := procfs.BootID()
	if err != nil {
		return maker{}, err
	}
	start, err := procfs.StartTime(os.Getpid())
	if err != nil {
		return maker{}, err
	}
	return maker{hostID(), short(boot), os.Getpid(), start}, nil
}

// hostID tells this machine from others that share its storage, by machine-id(5).
func hostID() string {
	if text, err := os.ReadFile("/etc/machine-id"); err == nil && len(text) >= 8 {
		return short(string(text))
	}
	name, _ := os.Hostname() // a machine without both has the same empty id as others without
	return fmt.Sprintf("%x", name)[:min(8, 2*len(name))]
}

func short(id string) string { return id[:min(8, len(id))] }

func (m maker) name(number uint64) string {
	return fmt.Sprintf("%s%s.%s.%d.%s.%d", makingPrefix, m.host, m.boot, m.pid, strconv.FormatUint(m.start, 36), number)
}

// parseMaking reads who makes a volume of a name.
func parseMaking(name string) (maker, bool) {
	rest, ok := strings.CutPrefix(name, makingPrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 5 {
		return maker{}, false
	}
	pid, errPID := strconv.Atoi(parts[2])
	start, errStart := strconv.ParseUint(parts[3], 36, 64)
	return maker{parts[0], parts[1], pid, start}, errPID == nil && errStart == nil && pid > 0
}

// gone reports whether a maker on this host is no more.
func (m maker) gone(here maker) bool {
	if m.host != here.host {
		return false
	}
	if m.boot != here.boot {
		return true
	}
	stat, err := procfs.ReadStat(m.pid)
	return err != nil || stat.StartTime != m.start || stat.Ended()
}

// making reports whether a name is that of a volume that is being made.
func making(name string) bool { return strings.HasPrefix(name, makingPrefix) }

// sweep removes what processes that are gone were making, and reports whether there was anything. What cannot be removed is tried again
// with the next Refresh.
func (d *Driver) sweep(ctx context.Context, p *pool, volumes []*lvm.Volume) (found bool) {
	here, err := thisMaker()
	if err != nil {
		d.core.Logger().Warn("this process cannot be told from others", "error", err)
		return false
	}
	for _, v := range volumes {
		if m, ok := parseMaking(v.Name); v.Hidden || !ok || !m.gone(here) {
			continue
		}
		found = true
		if err := p.Change(ctx, "lvremove", "--force", p.Group.Volume(v.Name)); err != nil {
			d.core.Logger().Warn("a half made volume cannot be removed", "group", p.Group.Name, "volume", v.Name, "error", err)
		}
	}
	return found
}
