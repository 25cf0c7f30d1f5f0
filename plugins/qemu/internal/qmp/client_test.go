package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, s *qmptest.Server) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(within(t), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestExecuteReturnsTheAnswerToItsOwnCommand(t *testing.T) {
	s := qmptest.Listen(t)
	s.Handle("echo", func(args json.RawMessage) (any, error) { return args, nil })
	c := dial(t, s)
	if v := c.Version(); v.QEMU.Major != 7 || v.QEMU.Minor != 2 || v.Package != "qmptest" {
		t.Errorf("version from the greeting is %+v", v)
	}
	errs := make(chan error, 50)
	for i := range 50 {
		go func() {
			var got struct{ N int }
			err := c.Execute(within(t), "echo", map[string]int{"n": i}, &got)
			if err == nil && got.N != i {
				err = errors.New("answer of another command")
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsOfQEMUAreTyped(t *testing.T) {
	s := qmptest.Listen(t)
	s.Fail("device_del", "DeviceNotFound", "Device 'x' not found")
	err := dial(t, s).Execute(within(t), "device_del", map[string]string{"id": "x"}, nil)
	var qerr *qmp.Error
	if !errors.As(err, &qerr) || qerr.Desc != "Device 'x' not found" || !qmp.IsClass(err, "DeviceNotFound") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(err.Error(), `"device_del"`) {
		t.Errorf("error does not name the command: %v", err)
	}
}

func TestBatchRunsAllAndReportsTheFirstFailure(t *testing.T) {
	s := qmptest.Listen(t)
	s.Reply("query-status", map[string]string{"status": "running"})
	s.Fail("bad", "GenericError", "no")
	c := dial(t, s)
	var status struct{ Status string }
	first, bad, last := &qmp.Command{Name: "query-status", Reply: &status}, &qmp.Command{Name: "bad"}, &qmp.Command{Name: "query-status"}
	err := c.Batch(within(t), first, bad, last)
	if !errors.Is(err, bad.Err) || !qmp.IsClass(err, "GenericError") {
		t.Errorf("batch returned %v", err)
	}
	if first.Err != nil || last.Err != nil || status.Status != "running" {
		t.Errorf("first %v, last %v, status %q", first.Err, last.Err, status.Status)
	}
	if got := strings.Join(s.Names(), " "); got != "query-status bad query-status" {
		t.Errorf("commands arrived as %s", got)
	}
}

func TestEventsArriveInOrderAndBeforeTheEnd(t *testing.T) {
	s := qmptest.Listen(t)
	s.Handle("go", func(json.RawMessage) (any, error) {
		s.Event("STOP", nil)
		s.Event("SHUTDOWN", map[string]bool{"guest": true})
		return struct{}{}, nil
	})
	c := dial(t, s)
	if err := c.Execute(within(t), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	s.HangUp()
	<-c.Done()
	var got []string
	for e := range c.Events() {
		got = append(got, e.Name+string(e.Data))
		if e.Time.Unix() != 1700000000 || e.Lost != 0 {
			t.Errorf("event %+v", e)
		}
	}
	if strings.Join(got, " ") != `STOP SHUTDOWN{"guest":true}` {
		t.Errorf("events %v", got)
	}
	if !errors.Is(c.Err(), qmp.ErrGone) {
		t.Errorf("reason %v", c.Err())
	}
}

func TestSlowReaderLosesTheOldestEventsAndLearnsHowMany(t *testing.T) {
	s := qmptest.Listen(t)
	s.Reply("sync", struct{}{})
	c := dial(t, s)
	const sent = 6000
	for i := range sent {
		s.Event("E", i)
	}
	if err := c.Execute(within(t), "sync", nil, nil); err != nil {
		t.Fatal(err)
	}
	s.HangUp()
	var read, lost uint64
	var last string
	for e := range c.Events() {
		read, lost, last = read+1, lost+e.Lost, string(e.Data)
	}
	if lost == 0 || read+lost != sent || last != "5999" {
		t.Errorf("read %d, lost %d, last %s", read, lost, last)
	}
}

func TestStuckQEMUDelaysNobodyBeyondTheirContext(t *testing.T) {
	s := qmptest.Listen(t)
	s.Reply("late", struct{}{})
	c := dial(t, s)
	resume := s.Stall()
	defer resume()
	big := map[string]string{"pad": strings.Repeat("x", 900<<10)} // fills the socket, so that the writer is stuck too
	var unsent int
	for range 80 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		err := c.Execute(ctx, "late", big, nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if errors.Is(err, qmp.ErrNotSent) {
			unsent++
		}
	}
	if unsent == 0 {
		t.Error("no command was known to be unsent, although the socket is full")
	}
	resume()
	if err := c.Execute(within(t), "late", nil, nil); err != nil {
		t.Errorf("after the stall: %v", err)
	}
	if got := len(s.Calls()); got > 80-unsent+1 {
		t.Errorf("%d commands arrived, %d were reported as not sent", got, unsent)
	}
}

func TestCloseEndsAStuckCall(t *testing.T) {
	s := qmptest.Listen(t)
	c := dial(t, s)
	resume := s.Stall()
	defer resume()
	errs := make(chan error, 1)
	go func() { errs <- c.Execute(context.Background(), "hang", nil, nil) }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("stuck call: %v", err)
	}
	if err := c.Execute(within(t), "more", nil, nil); !errors.Is(err, qmp.ErrClosed) || !errors.Is(err, qmp.ErrNotSent) {
		t.Errorf("later call: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestBrokenPeersEndTheClientWithAReason(t *testing.T) {
	for name, raw := range map[string]string{
		"garbage":             "}{\n",
		"a second greeting":   qmptest.Greeting + "\n",
		"an unknown id":       `{"return": {}, "id": 99999}` + "\n",
		"an id of text":       `{"return": {}, "id": "x"}` + "\n",
		"an error without id": `{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\n",
		"a message of none":   `{"id": 1}` + "\n",
		"a message of two":    `{"return": {}, "event": "STOP", "id": 1}` + "\n",
		"a giant event":       `{"event": "E", "data": "` + strings.Repeat("x", qmp.MaxEvent) + `"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Listen(t)
			c := dial(t, s)
			s.Raw(raw)
			<-c.Done()
			if !errors.Is(c.Err(), qmp.ErrProtocol) {
				t.Errorf("reason %v", c.Err())
			}
		})
	}
}

// TestRepliesToAPredecessorAreIgnored: QEMU answers the client that is there what the one before has asked.
func TestRepliesToAPredecessorAreIgnored(t *testing.T) {
	s := qmptest.Listen(t)
	s.Handle("qmp_capabilities", func(json.RawMessage) (any, error) {
		s.Raw(`{"return": {}, "id": 3}` + "\n")
		return map[string]any{}, nil
	})
	s.Handle("echo", func(args json.RawMessage) (any, error) { return args, nil })
	c := dial(t, s)
	var got struct{ N int }
	if err := c.Execute(within(t), "echo", map[string]int{"n": 7}, &got); err != nil || got.N != 7 {
		t.Errorf("answer is %d, %v", got.N, err)
	}
}

func TestGreetingIsBoundedByTheContext(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := qmp.New(ctx, here); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestGreetingMustBeAGreeting(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write([]byte("SSH-2.0-OpenSSH\n"))
		_ = there.Close()
	}()
	if _, err := qmp.New(within(t), here); !errors.Is(err, qmp.ErrProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestFilesTravelWithTheirCommand(t *testing.T) {
	s := qmptest.Listen(t)
	s.Reply("getfd", struct{}{})
	c := dial(t, s)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := c.ExecuteWithFile(within(t), w, "getfd", map[string]string{"fdname": "tap"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := s.Calls()[0].File
	if got == nil {
		t.Fatal("no descriptor arrived")
	}
	if _, err := got.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

func TestFilesNeedAUnixSocket(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write([]byte(qmptest.Greeting + "\n"))
		_, _ = bufio.NewReader(there).ReadString('\n')
		_, _ = there.Write([]byte(`{"return": {}, "id": 1}` + "\n"))
	}()
	c, err := qmp.New(within(t), here)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer there.Close()
	if err := c.ExecuteWithFile(within(t), os.Stdin, "getfd", nil, nil); !errors.Is(err, qmp.ErrNotSent) {
		t.Errorf("got %v", err)
	}
}

func TestDialReachesSocketsWithLongPaths(t *testing.T) {
	s := qmptest.Listen(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qmp.sock")
	if err := os.Link(s.Path(), path); err != nil {
		t.Skip(err) // temporary folders on two file systems
	}
	c, err := qmp.Dial(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestDialOfNothingSaysSo(t *testing.T) {
	if _, err := qmp.Dial(within(t), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCommandsThatAreTooLargeAreNotSent(t *testing.T) {
	c := dial(t, qmptest.Listen(t))
	err := c.Execute(within(t), "x", strings.Repeat("x", qmp.MaxCommand), nil)
	if !errors.Is(err, qmp.ErrNotSent) {
		t.Errorf("got %v", err)
	}
	if err := c.Execute(within(t), "x", make(chan int), nil); !errors.Is(err, qmp.ErrNotSent) {
		t.Errorf("arguments that are no JSON: %v", err)
	}
}
