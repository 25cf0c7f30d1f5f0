package faketest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
)

// Launch starts a plugin as a process of its own within a core, and describes and configures it, for what only a process shows: that it
// is killed. command makes the process anew; its environment, if there is one, is added to. What it writes to its standard error is
// the test's.
func Launch(t testing.TB, config []byte, command func() *exec.Cmd) *Host {
	t.Helper()
	h := newHost(t)
	h.Relaunch(t, config, command)
	return h
}

// Relaunch starts another process in the place of the one that there was, which is killed first if it is still there, with the same
// folders and state.
func (h *Host) Relaunch(t testing.TB, config []byte, command func() *exec.Cmd) {
	t.Helper()
	h.Stop()
	cmd := command()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, handshake.CookieKey+"="+handshake.CookieValue, handshake.DirKey+"="+h.dir,
		fmt.Sprintf("%s=%d", handshake.VersionsKey, handshake.Protocol))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start plugin: %v", err)
	}
	h.Process, h.gone = cmd.Process, make(chan struct{})
	gone := h.gone
	ended := make(chan error, 1)
	h.end = func() {
		_ = cmd.Process.Kill()
		<-ended
		h.Process = nil
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n') // a process that says nothing is told of below
		line <- text
		err := cmd.Wait()
		close(gone)
		ended <- err
	}()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case text := <-line:
		if !strings.Contains(text, handshake.PluginSocket) {
			t.Fatalf("the plugin's first line is %q", text)
		}
	case <-limit.C:
		t.Fatal("the plugin does not say that it serves")
	}
	h.dial(t, ended)
	h.Configure(t, config)
}

// Kill ends the plugin's process with SIGKILL, and waits until it is gone.
func (h *Host) Kill() { h.Stop() }

// Shutdown ends the plugin's process with SIGTERM, and waits until it is gone.
func (h *Host) Shutdown(t testing.TB) {
	t.Helper()
	if err := h.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("end plugin: %v", err)
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-h.gone:
	case <-limit.C:
		t.Error("the plugin does not end")
	}
	h.Stop()
}
