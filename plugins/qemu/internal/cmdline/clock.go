package cmdline

import (
	"strconv"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// timers returns the timers of a name.
func (b *builder) timers(name string) []libvirtxml.DomainTimer {
	var list []libvirtxml.DomainTimer
	if b.d.Clock != nil {
		for _, t := range b.d.Clock.Timer {
			if t.Name == name {
				list = append(list, t)
			}
		}
	}
	return list
}

func (b *builder) clock() error {
	base, err := b.rtcBase()
	if err != nil {
		return err
	}
	o := options{"base=" + base}
	for _, t := range b.timers("rtc") {
		switch t.Track {
		case "guest":
			o.add("clock=vm")
		case "wall":
			o.add("clock=host")
		}
		switch t.TickPolicy {
		case "", "delay":
		case "catchup":
			o.add("driftfix=slew")
		default:
			return unsupported("unsupported rtc timer tickpolicy '%s'", t.TickPolicy)
		}
	}
	b.arg("-rtc", o.String())
	return b.otherTimers()
}

// timerNames are the timers that are handled, here or in cpu and machine.
var timerNames = map[string]bool{
	"rtc": true, "pit": true, "hpet": true, "tsc": true, "kvmclock": true, "hypervclock": true,
}

func (b *builder) otherTimers() error {
	if b.d.Clock == nil {
		return nil
	}
	for _, t := range b.d.Clock.Timer {
		if !timerNames[t.Name] {
			return unsupported("unsupported timer type (name) '%s'", t.Name)
		}
	}
	for _, t := range b.timers("pit") {
		switch t.TickPolicy {
		case "":
		case "delay", "discard":
			b.arg("-global", "kvm-pit.lost_tick_policy="+t.TickPolicy)
		default:
			return unsupported("unsupported pit tickpolicy '%s'", t.TickPolicy)
		}
	}
	return nil
}

// rtcTime is how QEMU reads a date.
const rtcTime = "2006-01-02T15:04:05"

func (b *builder) rtcBase() (string, error) {
	c := b.d.Clock
	if c == nil {
		return "utc", nil
	}
	switch c.Offset {
	case "", "utc":
		return "utc", nil
	case "localtime":
		return "localtime", nil
	case "timezone":
		b.cmd.Environment = append(b.cmd.Environment, "TZ="+c.TimeZone)
		return "localtime", nil
	case "absolute":
		return time.Unix(int64(c.Start), 0).UTC().Format(rtcTime), nil
	case "variable":
		var seconds int64
		if c.Adjustment != "" && c.Adjustment != "reset" {
			var err error
			if seconds, err = strconv.ParseInt(c.Adjustment, 10, 64); err != nil {
				return "", verr.New(verr.XMLError, "unknown clock adjustment '%s'", c.Adjustment)
			}
		}
		now := b.plan.Now.UTC()
		if c.Basis == "localtime" {
			_, east := b.plan.Now.Zone()
			seconds += int64(east)
		}
		return now.Add(time.Duration(seconds) * time.Second).Format(rtcTime), nil
	}
	return "", unsupported("unsupported clock offset '%s'", c.Offset)
}

// power keeps QEMU alive after a shutdown, so that the reason can be read, and writes the guest's power management.
func (b *builder) power() error {
	b.arg("-no-shutdown")
	if b.d.PM == nil {
		return nil
	}
	driver := "PIIX4_PM"
	if b.q35 {
		driver = "ICH9-LPC"
	}
	for _, p := range []struct {
		key    string
		policy *libvirtxml.DomainPMPolicy
	}{{"disable_s3", b.d.PM.SuspendToMem}, {"disable_s4", b.d.PM.SuspendToDisk}} {
		if p.policy == nil || p.policy.Enabled == "" {
			continue
		}
		value := "0"
		if p.policy.Enabled == "no" {
			value = "1"
		}
		b.arg("-global", driver+"."+p.key+"="+value)
	}
	return nil
}
