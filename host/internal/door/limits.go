package door

import "time"

// Limits bound what clients can make the server hold. The defaults are libvirtd's where it has such a limit.
type Limits struct {
	// Clients is how many may be connected; further ones are closed at once. Default 5000.
	Clients int
	// InFlight is how many calls of one client may wait for drivers or disks at a time. Default 5.
	InFlight int
	// Queued is how many more calls of one client are read ahead. When they are used up the client is not read from
	// before a call ends. Default 256.
	Queued int
	// QueuedBytes is how large the calls read ahead may be together. Default 4 MiB.
	QueuedBytes int
	// Streams is how many streams one client may have open. Default 64.
	Streams int
	// StreamBytes is how much of a stream may wait to be taken by its device. Default 1 MiB.
	StreamBytes int
	// Callbacks is how many event callbacks one client may register. Default 1024.
	Callbacks int
	// CallTimeout is how long a call may take in all, but for those that work on storage or save a guest; drivers have stricter deadlines
	// of their own. Default 10 minutes.
	CallTimeout time.Duration
	// WriteTimeout is how long a client may refuse to read before it is cut off. Default 60 seconds.
	WriteTimeout time.Duration
	// FrameTimeout is how long the rest of a frame may take once it has begun. Default 60 seconds.
	FrameTimeout time.Duration
	// StreamTimeout is how long a device may refuse to take a full queue before its stream is aborted. Default 10 seconds.
	StreamTimeout time.Duration
	// TransferTimeout is the same for a volume, whose storage may stand still for a while; it also bounds the wait until everything that
	// was sent is there. Default 10 minutes.
	TransferTimeout time.Duration
	// KeepaliveInterval is the time of silence after which a client that can answer is pinged. Default 5 seconds.
	KeepaliveInterval time.Duration
	// KeepaliveCount is how many pings may stay without an answer. Default 5.
	KeepaliveCount int
}

// defaults are used for fields that are zero.
var defaults = Limits{
	Clients: 5000, InFlight: 5, Queued: 256, QueuedBytes: 4 << 20, Streams: 64, StreamBytes: 1 << 20, Callbacks: 1024,
	CallTimeout: 10 * time.Minute, WriteTimeout: time.Minute, FrameTimeout: time.Minute, StreamTimeout: 10 * time.Second,
	TransferTimeout:   10 * time.Minute,
	KeepaliveInterval: 5 * time.Second, KeepaliveCount: 5,
}

func (l Limits) withDefaults() Limits {
	for _, n := range []struct {
		field *int
		value int
	}{
		{&l.Clients, defaults.Clients},
		{&l.InFlight, defaults.InFlight},
		{&l.Queued, defaults.Queued},
		{&l.QueuedBytes, defaults.QueuedBytes},
		{&l.Streams, defaults.Streams},
		{&l.StreamBytes, defaults.StreamBytes},
		{&l.Callbacks, defaults.Callbacks},
		{&l.KeepaliveCount, defaults.KeepaliveCount},
	} {
		if *n.field <= 0 {
			*n.field = n.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.CallTimeout, defaults.CallTimeout},
		{&l.WriteTimeout, defaults.WriteTimeout},
		{&l.FrameTimeout, defaults.FrameTimeout},
		{&l.StreamTimeout, defaults.StreamTimeout},
		{&l.TransferTimeout, defaults.TransferTimeout},
		{&l.KeepaliveInterval, defaults.KeepaliveInterval},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}
