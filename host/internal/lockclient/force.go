package lockclient

import (
	"context"
	"errors"
)

// ForceRelease temporary.
func (c *Client) ForceRelease(ctx context.Context, number uint64) error { return errors.New("todo") }
