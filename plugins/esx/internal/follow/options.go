package follow

import "time"

// Options are how an endpoint is followed; the zero value is good for real ones.
type Options struct {
	// MaxWait is how long the endpoint may wait for something to happen before it says that nothing has, in whole seconds, 0 for 10 s.
	MaxWait time.Duration
	// Grace is how much longer the follower waits before it takes the endpoint for lost, 0 for 10 s.
	Grace time.Duration
	// MaxObjects bounds the objects in one answer, 0 leaves it to the endpoint.
	MaxObjects int32
	// Setup bounds the making of a watch, 0 for 30 s.
	Setup time.Duration
	// MinPause and MaxPause bound the pause between a watch that failed and the next, 0 for 100 ms and 10 s.
	MinPause, MaxPause time.Duration
}

// complete fills in what is not given.
func (o Options) complete() Options {
	for _, t := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.MaxWait, 10 * time.Second},
		{&o.Grace, 10 * time.Second},
		{&o.Setup, 30 * time.Second},
		{&o.MinPause, 100 * time.Millisecond},
		{&o.MaxPause, 10 * time.Second},
	} {
		if *t.value <= 0 {
			*t.value = t.fallback
		}
	}
	return o
}
