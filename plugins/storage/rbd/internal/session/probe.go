package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// probeTime is how long a monitor may take to say what it is.
const probeTime = 5 * time.Second

// monitorPorts are where monitors listen whose ports are not stated: protocol 2, and protocol 1.
var monitorPorts = []string{"3300", "6789"}

// probe finds out within some seconds whether any of the monitors lives, which the libraries would only say by a timeout that means many things.
// A monitor speaks first, whichever protocol it has. Source: https://docs.ceph.com/en/latest/dev/msgr2/, "banner".
func probe(monitors []string, limit time.Duration) error {
	if len(monitors) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var addrs []string
	for _, m := range monitors {
		if _, _, err := net.SplitHostPort(m); err == nil {
			addrs = append(addrs, m)
			continue
		}
		for _, port := range monitorPorts {
			addrs = append(addrs, m+":"+port)
		}
	}
	results := make(chan error, len(addrs))
	for _, a := range addrs {
		go func() { results <- greet(ctx, a) }()
	}
	var all error
	for range addrs {
		err := <-results
		if err == nil {
			cancel()
			return nil
		}
		all = errors.Join(all, err)
	}
	return all
}

// greet waits for a monitor's first words.
func greet(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	const banner = "ceph v"
	words := make([]byte, len(banner))
	if _, err := io.ReadFull(conn, words); err != nil {
		return fmt.Errorf("%s takes connections and says nothing: %w", addr, err)
	}
	if string(words) != banner {
		return fmt.Errorf("%s is no monitor of Ceph", addr)
	}
	return nil
}
