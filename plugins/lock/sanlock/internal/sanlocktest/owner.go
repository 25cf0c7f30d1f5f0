package sanlocktest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/sdk/procfs"
)

// ownerOrders is the environment variable that makes a process an owner: it holds a Registration.
const ownerOrders = "LODGE_TEST_OWNER"

// Registration is what a process does to register itself; without a socket it does nothing.
type Registration struct {
	Socket    string
	Exchanges []client.Exchange
}

// Owner is a process that has registered with a daemon, as a guest's process does.
type Owner struct {
	// PID is its pid, StartTime its start time in clock ticks after boot.
	PID       int
	StartTime uint64

	cmd  *exec.Cmd
	in   io.WriteCloser
	once sync.Once
	done chan struct{}
}

// RunOwner makes this process an owner if that is what it was started for, and does not return then. To be called by TestMain.
func RunOwner() {
	orders := os.Getenv(ownerOrders)
	if orders == "" {
		return
	}
	var r Registration
	err := json.Unmarshal([]byte(orders), &r)
	if err == nil {
		err = r.run()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (r Registration) run() error {
	if r.Socket != "" {
		conn, err := client.Connect(context.Background(), r.Socket)
		if err != nil {
			return err
		}
		for _, e := range r.Exchanges {
			if _, err := conn.Write(e.Send); err != nil {
				return err
			}
			answer := make([]byte, len(e.Want))
			if _, err := io.ReadFull(conn, answer); err != nil {
				return err
			}
			for i, m := range e.Mask {
				if answer[i]&m != e.Want[i]&m {
					return fmt.Errorf("answer %x", answer)
				}
			}
		}
		defer conn.Close()
	}
	fmt.Println("registered")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// NewOwner starts a process that registers with the host's daemon, with a kill path or none. It lives until the test ends.
func (h *Host) NewOwner(t testing.TB, killPath string) *Owner {
	t.Helper()
	return NewOwner(t, Registration{Socket: h.Client.Socket(), Exchanges: client.Registration(killPath)})
}

// NewStranger starts a process that does not register.
func NewStranger(t testing.TB) *Owner {
	t.Helper()
	return NewOwner(t, Registration{})
}

// NewOwner starts a process that registers itself. It lives until the test ends.
func NewOwner(t testing.TB, r Registration) *Owner {
	t.Helper()
	orders, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := &Owner{cmd: exec.CommandContext(context.Background(), self), done: make(chan struct{})}
	o.cmd.Env = append(os.Environ(), ownerOrders+"="+string(orders))
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Kill)
	word := make([]byte, 256)
	if n, err := out.Read(word); err != nil || string(word[:n]) != "registered\n" {
		t.Fatalf("owner said %q, %v", word[:n], err)
	}
	go func() {
		defer close(o.done)
		_ = o.cmd.Wait() // how it ended is asked for by signal
	}()
	o.PID = o.cmd.Process.Pid
	if o.StartTime, err = procfs.StartTime(o.PID); err != nil {
		t.Fatal(err)
	}
	return o
}

// Kill ends the process.
func (o *Owner) Kill() {
	o.once.Do(func() {
		_ = o.cmd.Process.Kill()
		_ = o.in.Close()
	})
	if o.done != nil && o.PID != 0 {
		<-o.done
	}
}

// Done is closed when the process has ended.
func (o *Owner) Done() <-chan struct{} { return o.done }

// EndedBy returns the signal that has ended the process, once Done is closed, or 0.
func (o *Owner) EndedBy() syscall.Signal {
	<-o.done
	status, ok := o.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return 0
	}
	return status.Signal()
}
