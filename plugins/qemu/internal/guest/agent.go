package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of the talk with a guest agent, which is as trustworthy as the guest.
const (
	agentTime    = 5 * time.Second
	maxAgentLine = 64 << 10
	maxAgentSkip = 256
)

// agentShutdown asks the guest's agent to power down or reboot. The agent does not answer when it does so; its silence is success
// once it has answered that it is there. Protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
func agentShutdown(ctx context.Context, path, mode string, connected bool) error {
	if path == "" {
		return verr.New(verr.ArgumentUnsupported, "QEMU guest agent is not configured")
	}
	if !connected {
		return verr.New(verr.AgentUnresponsive, "QEMU guest agent is not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	if err := agentTell(ctx, path, mode); err != nil {
		return verr.New(verr.AgentUnresponsive, "Guest agent is not responding: %w", err)
	}
	return nil
}

func agentTell(ctx context.Context, path, mode string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("connect to agent: %w", err)
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return fmt.Errorf("connect to agent: %w", err)
		}
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, maxAgentSkip*maxAgentLine), maxAgentLine)
	if err := agentSync(conn, in); err != nil {
		return fmt.Errorf("synchronize with agent: %w", err)
	}
	if err := agentSend(conn, "guest-shutdown", map[string]any{"mode": mode}); err != nil {
		return fmt.Errorf("tell agent to %s: %w", mode, err)
	}
	return agentRefusal(conn, in)
}

// agentSync finds the answer to our own question among those that others have left in the channel.
func agentSync(conn net.Conn, in *bufio.Reader) error {
	id := rand.Int32()
	if err := agentSend(conn, "guest-sync", map[string]any{"id": id}); err != nil {
		return err
	}
	for range maxAgentSkip {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		var reply struct {
			Return *int32 `json:"return"`
		}
		if json.Unmarshal(line, &reply) == nil && reply.Return != nil && *reply.Return == id {
			return nil
		}
	}
	return errors.New("agent talks of other things")
}

func agentSend(conn net.Conn, command string, args map[string]any) error {
	line, err := json.Marshal(map[string]any{"execute": command, "arguments": args})
	if err != nil {
		return err
	}
	_, err = conn.Write(append(line, '\n'))
	return err
}

// agentRefusal waits a moment for the agent to refuse.
func agentRefusal(conn net.Conn, in *bufio.Reader) error {
	const moment = 200 * time.Millisecond
	if err := conn.SetReadDeadline(time.Now().Add(moment)); err != nil {
		return err
	}
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil // it has nothing to say, or is gone: it obeys
	}
	var reply struct {
		Error *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if json.Unmarshal(line, &reply) == nil && reply.Error != nil {
		return fmt.Errorf("agent refused: %s", reply.Error.Desc)
	}
	return nil
}
