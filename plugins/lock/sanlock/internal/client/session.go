package client

import "context"

// Session is a connection by which this process has registered. It may have leases until the session is closed. One call at a time.
type Session struct{ conn *conn }

// Register registers this process. The session fails when the context ends.
func (c *Client) Register(ctx context.Context) (*Session, error) {
	conn, err := c.open(ctx, header{command: cmdRegister}, nil)
	if err != nil {
		return nil, err
	}
	return &Session{conn: conn}, nil
}

// Acquire is Client.Acquire for this process.
func (s *Session) Acquire(ctx context.Context, owner string, leases []Resource) error {
	h, body, err := acquireRequest(itself, owner, leases)
	if err != nil {
		return named("take leases", err)
	}
	if _, err := s.conn.Write(message(h, body)); err != nil {
		return reason(ctx, "ask the sanlock daemon", err)
	}
	answer, err := readHeader(s.conn, cmdAcquire)
	if err != nil {
		return reason(ctx, "read the sanlock daemon's answer", err)
	}
	return named("take leases", failed(answer.result()))
}

// Close gives up what the session has.
func (s *Session) Close() error { return s.conn.Close() }
