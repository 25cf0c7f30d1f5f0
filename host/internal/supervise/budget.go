package supervise

import (
	"math/rand/v2"
	"time"
)

// Restart says how a plugin that crashed is started again. The zero value stands for DefaultRestart.
type Restart struct {
	// Min and Max bound the pause before a restart, which doubles from crash to crash. There is none after a run that was
	// healthy.
	Min, Max time.Duration
	// Healthy is how long a plugin must have been ready for its earlier crashes to be forgiven.
	Healthy time.Duration
	// Crashes within Window make the plugin failed.
	Crashes int
	Window  time.Duration
}

// DefaultRestart is what a host uses.
var DefaultRestart = Restart{
	Min: 100 * time.Millisecond, Max: 30 * time.Second, Healthy: time.Second, Crashes: 5, Window: time.Minute,
}

// jitter is how far a pause may differ from its nominal length, as a part of it.
const jitter = 0.2

// budget counts crashes. It does not look at the clock itself.
type budget struct {
	rules Restart
	row   int         // crashes without a healthy run in between
	times []time.Time // of crashes within the window
}

func newBudget(rules Restart) *budget {
	if rules == (Restart{}) {
		rules = DefaultRestart
	}
	return &budget{rules: rules}
}

// crashed counts a crash at a time, after the plugin had been ready for some time, or never (0). It returns the nominal pause before
// the next start, or false if the budget is used up.
func (b *budget) crashed(now time.Time, ready time.Duration) (pause time.Duration, again bool) {
	kept := b.times[:0]
	for _, t := range b.times {
		if now.Sub(t) < b.rules.Window {
			kept = append(kept, t)
		}
	}
	b.times = append(kept, now)
	if len(b.times) >= b.rules.Crashes {
		return 0, false
	}
	if ready >= b.rules.Healthy {
		b.row = 0
		return 0, true
	}
	pause = b.rules.Min
	for range b.row {
		pause = min(2*pause, b.rules.Max)
		if pause == b.rules.Max {
			break
		}
	}
	b.row++
	return pause, true
}

// reset forgets all crashes.
func (b *budget) reset() { b.row, b.times = 0, nil }

// spread adds jitter to a pause, so that plugins that fell together do not rise together.
func spread(pause time.Duration) time.Duration {
	return time.Duration(float64(pause) * (1 - jitter + 2*jitter*rand.Float64()))
}
