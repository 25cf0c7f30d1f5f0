package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// console reads the guest's serial console through the API and opens it again whenever a daemon's end closes it.
type console struct {
	host *rig.Host
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	count int
	line  []byte
	conn  *libvirt.Libvirt
	// err is why reading ended last, at the time ended.
	err   error
	ended time.Time
}

// watchConsole starts reading the console.
func watchConsole(host *rig.Host) *console {
	c := &console{host: host, count: -1, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for {
			err := c.read()
			c.mu.Lock()
			c.err, c.ended = err, time.Now()
			c.mu.Unlock()
			select {
			case <-c.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return c
}

// read reads the console until it ends.
func (c *console) read() error {
	conn, err := c.host.Dial(connection)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Disconnect() }() // It may be gone already.
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	dom, err := conn.DomainLookupByName(guestName)
	if err != nil {
		return fmt.Errorf("find the guest: %w", err)
	}
	// The force flag (1) takes the console from a reader whose connection has not been noticed to be dead.
	return conn.DomainOpenConsole(dom, nil, c, 1)
}

// Write takes what the console says.
func (c *console) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range text {
		if b != '\n' {
			if len(c.line) < 256 {
				c.line = append(c.line, b)
			}
			continue
		}
		if n, ok := tickOf(string(c.line)); ok {
			c.count = n
		}
		c.line = c.line[:0]
	}
	return len(text), nil
}

// Count is the last number that the guest has said, or -1.
func (c *console) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// Await waits until the guest has counted to a number.
func (c *console) Await(ctx context.Context, want int, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for c.Count() < want {
		if time.Now().After(deadline) || ctx.Err() != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("the guest's console stands at %d, want %d; reading it ended last %.1f s ago: %w",
				c.count, want, time.Since(c.ended).Seconds(), c.err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// Stop ends reading.
func (c *console) Stop() {
	close(c.stop)
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Disconnect() // It may be gone already.
	}
	<-c.done
}

// tickOf reads the number of a line of the guest.
func tickOf(line string) (int, bool) {
	text, ok := strings.CutPrefix(strings.TrimSpace(line), "tick ")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}

// disk watches the count on the guest's disk, which needs none of the daemons.
type disk struct {
	stop chan struct{}
	done chan struct{}

	gap   time.Duration
	steps int
}

// watchDisk starts watching a disk's first sector.
func watchDisk(path string) *disk {
	d := &disk{stop: make(chan struct{}), done: make(chan struct{})}
	go d.watch(path)
	return d
}

// watch notes the longest time between two changes.
func (d *disk) watch(path string) {
	defer close(d.done)
	last, changed := "", time.Now()
	for {
		select {
		case <-d.stop:
			d.gap = max(d.gap, time.Since(changed))
			return
		case <-time.After(5 * time.Millisecond):
		}
		now := firstLine(path)
		if now == last || now == "" {
			continue
		}
		if last != "" {
			d.gap = max(d.gap, time.Since(changed))
			d.steps++
		}
		last, changed = now, time.Now()
	}
}

// Stop ends watching and returns the longest pause and how many changes there were.
func (d *disk) Stop() (gap time.Duration, steps int) {
	close(d.stop)
	<-d.done
	return d.gap, d.steps
}

// firstLine reads the first line of a file's first sector, or "".
func firstLine(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	sector := make([]byte, 512)
	n, err := file.Read(sector)
	if err != nil {
		return ""
	}
	line, _, ok := strings.Cut(string(sector[:n]), "\n")
	if !ok {
		return ""
	}
	return line
}
