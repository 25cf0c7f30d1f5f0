package guard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
)

// second is a moment: seconds after the machine's start.
func second(s float64) boot.Time { return boot.Time(s * float64(time.Second)) }

func TestWhoMustEnd(t *testing.T) {
	// Renewed at 1000, for 30 seconds: safe until 1027.
	lease := Lease{ID: 7, Ends: second(1030), TTL: 30 * time.Second}
	for _, c := range []struct {
		name  string
		guest Guest
		since float64
		now   float64
		lease Lease
		ends  bool
	}{
		{"while the lease is safe", Guest{PID: 1}, 900, 1026.9, lease, false},
		{"at the deadline", Guest{PID: 1}, 900, 1027, lease, true},
		{"long after it, as after a suspension of the machine", Guest{PID: 1}, 900, 9000, lease, true},
		{"one that is spared", Guest{PID: 1, Spare: true}, 900, 9000, lease, false},
		{"one that has no process here", Guest{}, 900, 9000, lease, false},
		{"one that the guard was told of too late", Guest{PID: 1}, 1029, 1030, lease, false},
		{"and a margin later", Guest{PID: 1}, 1029, 1032, lease, true},
		{"one that the guard was told of just in time", Guest{PID: 1}, 1026.9, 1027, lease, true},
		{"one that has lost a lock, before", Guest{PID: 1, Lost: second(1010)}, 900, 1009, lease, false},
		{"one that has lost a lock, then", Guest{PID: 1, Lost: second(1010)}, 900, 1010, lease, true},
		{"a loss that is later than the lease's end", Guest{PID: 1, Lost: second(2000)}, 900, 1027, lease, true},
		{"without a lease nothing ends by itself", Guest{PID: 1}, 900, 9000, Lease{}, false},
		{"but a loss counts", Guest{PID: 1, Lost: second(1010)}, 900, 1010, Lease{TTL: 30 * time.Second}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &entry{Guest: c.guest, since: second(c.since), fd: -1}
			tab := table{guests: map[record.Life]*entry{{UUID: "u"}: e}}
			kill, again := tab.due(second(c.now), c.lease)
			if got := len(kill) > 0; got != c.ends {
				t.Errorf("it must end: %v, want %v", got, c.ends)
			}
			if again <= second(c.now) {
				t.Errorf("at %v the guard looks again at %v", second(c.now), again)
			}
			if !c.ends {
				return
			}
			if why := e.reason(second(c.now), c.lease); why == "" || strings.Contains(why, "-") {
				t.Errorf("the reason is %q", why)
			}
			e.killed = second(c.now)
			if kill, _ := tab.due(second(c.now+1), c.lease); len(kill) > 0 {
				t.Error("it must end twice")
			}
		})
	}
}

func TestGuardLooksAgainAtTheNextDeadline(t *testing.T) {
	lease := Lease{ID: 7, Ends: second(1030), TTL: 30 * time.Second}
	tab := table{guests: map[record.Life]*entry{
		{UUID: "u"}: {Guest: Guest{PID: 1}, since: second(900)},
		{UUID: "v"}: {Guest: Guest{PID: 2, Lost: second(1025.5)}, since: second(900)},
	}}
	if _, again := tab.due(second(1025), lease); again != second(1025.5) {
		t.Errorf("the guard looks again at %v", again)
	}
	if _, again := tab.due(second(1000), lease); again != second(1002.5) {
		t.Errorf("with nothing near the guard looks again at %v", again)
	}
}

// TestTimesFitIntoATTL holds the timetable of a lease together: a renewal that fails can be tried again several times before the core
// is told, and the core has time to act before the guard does.
func TestTimesFitIntoATTL(t *testing.T) {
	for _, ttl := range []time.Duration{5 * time.Second, 30 * time.Second, time.Hour} {
		told := ttl - ttl/3
		if n := (told - Interval(ttl)) / Patience(ttl); n < 3 {
			t.Errorf("ttl %v: a renewal is tried %d times before the core is told", ttl, n)
		}
		if Overdue(ttl) <= Interval(ttl)+Patience(ttl) || Overdue(ttl) >= told {
			t.Errorf("ttl %v: the guard takes over after %v", ttl, Overdue(ttl))
		}
		if left := ttl - told - Margin(ttl); left < ttl/5 {
			t.Errorf("ttl %v: the core has %v to act", ttl, left)
		}
	}
}

func TestOverdue(t *testing.T) {
	l := Lease{ID: 7, Ends: second(1030), TTL: 30 * time.Second}
	var got []string
	for _, at := range []float64{1000, 1009.9, 1010, 1100} {
		got = append(got, fmt.Sprint(overdue(second(at), l)))
	}
	if want := []string{"false", "false", "true", "true"}; !slices.Equal(got, want) {
		t.Errorf("overdue is %v, want %v", got, want)
	}
}
