package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// vimWait is how long a simulated hypervisor may take to come up; 1,000 machines take half a minute to be made.
const vimWait = 3 * time.Minute

// vimEnd is how long it may take to end and to put away its files; one that is stopped is killed then.
const vimEnd = 3 * time.Second

// Vim is a simulated ESX host or vCenter server in a process of its own.
type Vim struct {
	// Address is host and port, User and Password let in, Thumbprint is that of the certificate.
	Address    string `json:"address"`
	User       string `json:"user"`
	Password   string `json:"password"`
	Thumbprint string `json:"thumbprint"`

	cmd   *exec.Cmd
	stdin io.Closer
	end   sync.Once
}

// StartVim starts a simulator, whose binary is in the folder of the others; Close ends it.
func StartVim(ctx context.Context, binary string, args ...string) (*Vim, error) {
	ctx, cancel := context.WithTimeout(ctx, vimWait)
	defer cancel()
	v := &Vim{cmd: exec.CommandContext(context.WithoutCancel(ctx), binary, args...)} // ended by Close, not by a context
	stdin, err := v.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	v.stdin = stdin
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	told := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(stdout).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, v)
		}
		told <- err
	}()
	select {
	case err = <-told:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the simulator: %w", err), v.Close())
	}
	return v, nil
}

// PID is the simulator's process.
func (v *Vim) PID() int { return v.cmd.Process.Pid }

// Close ends the simulator, also one that is stopped.
func (v *Vim) Close() error {
	v.end.Do(func() {
		_ = v.stdin.Close() // tells it to end
		slow := time.AfterFunc(vimEnd, func() { _ = v.cmd.Process.Kill() })
		_ = v.cmd.Wait() // how it ends is of no interest
		slow.Stop()
	})
	return nil
}
