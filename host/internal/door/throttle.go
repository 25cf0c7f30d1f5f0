package door

import "sync"

// throttle runs a client's calls, so many at a time, in the order in which they came.
type throttle struct {
	running, limit int
	maxQueued      int
	maxBytes       int

	mu sync.Mutex // guards what follows and running
	// room tells that the queue got shorter.
	room  *sync.Cond
	queue []queued
	bytes int
	wg    sync.WaitGroup
}

// queued is a call that waits for its turn.
type queued struct {
	size int
	run  func()
}

func newThrottle(limit, maxQueued, maxBytes int) *throttle {
	t := &throttle{limit: limit, maxQueued: maxQueued, maxBytes: maxBytes}
	t.room = sync.NewCond(&t.mu)
	return t
}

// submit runs a call on another goroutine, now or later. It waits only while the queue is full.
func (t *throttle) submit(size int, run func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) >= t.maxQueued || (len(t.queue) > 0 && t.bytes+size > t.maxBytes) {
		t.room.Wait()
	}
	if t.running >= t.limit {
		t.queue = append(t.queue, queued{size, run})
		t.bytes += size
		return
	}
	t.running++
	t.wg.Go(func() { t.work(run) })
}

// work runs a call and then those that wait, until none does.
func (t *throttle) work(run func()) {
	for ok := true; ok; run, ok = t.next() {
		run()
	}
}

func (t *throttle) next() (func(), bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.running--
		return nil, false
	}
	first := t.queue[0]
	t.queue[0] = queued{}
	t.queue = t.queue[1:]
	t.bytes -= first.size
	t.room.Signal()
	return first.run, true
}

// wait returns when no call runs or waits; nothing may be submitted meanwhile.
func (t *throttle) wait() { t.wg.Wait() }
