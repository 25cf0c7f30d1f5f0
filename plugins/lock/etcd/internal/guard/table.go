package guard

import (
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
)

// entry is a guest in the guard's table.
type entry struct {
	Guest
	// since is when the guard was first told of it.
	since boot.Time
	// fd is the pidfd, or -1 where there is no process or the system had no more descriptors.
	fd int
	// stale says that the plugin has not named it since Begin.
	stale bool
	// killed is when it was killed, and why.
	killed boot.Time
	why    string
}

// table decides who must end, and when. It is not safe concurrently.
type table struct {
	guests map[record.Life]*entry
}

// deadline is when a guest must have ended, and whether it must at all.
func (e *entry) deadline(l Lease) (at boot.Time, must bool) {
	if e.PID == 0 || e.Spare || e.killed != 0 {
		return 0, false
	}
	at, must = e.Lost, e.Lost != 0
	if l.ID != 0 && (!must || l.Safe() < at) {
		at, must = l.Safe(), true
	}
	if e.since >= at {
		// It was too late when the guard was told: the core gets a moment to be faster.
		at = e.since.Add(Margin(l.TTL))
	}
	return at, must
}

// due returns the guests that must end now, and when to look again.
func (t *table) due(now boot.Time, l Lease) (kill []*entry, again boot.Time) {
	again = now.Add(max(l.TTL/12, 250*time.Millisecond))
	for _, e := range t.guests {
		at, must := e.deadline(l)
		switch {
		case !must:
		case at <= now:
			kill = append(kill, e)
		default:
			again = min(again, at)
		}
	}
	return kill, again
}

// reason says in a sentence why a guest must end.
func (e *entry) reason(now boot.Time, l Lease) string {
	if e.Lost != 0 && e.Lost <= now {
		return "it has lost a lock, and nobody else has ended it"
	}
	return "its locks were not renewed for " + (now.Sub(l.Ends) + l.TTL).Round(time.Millisecond).String()
}
