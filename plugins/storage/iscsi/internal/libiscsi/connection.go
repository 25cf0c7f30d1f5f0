//go:build libiscsi && cgo

package libiscsi

/*
#cgo LDFLAGS: -liscsi
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "reply.h"

// Targets are gone when the callback returns, so they are written down: a line for each portal, its target before it.
static void lodge_discovered(struct iscsi_context *iscsi, int status, void *data, void *private) {
	struct lodge_reply *r = private;
	FILE *f = status == SCSI_STATUS_GOOD ? open_memstream(&r->text, &r->size) : NULL;
	if (f) {
		for (struct iscsi_discovery_address *a = data; a; a = a->next)
			for (struct iscsi_target_portal *p = a->portals; p; p = p->next)
				fprintf(f, "%s\t%s\n", a->target_name, p->portal);
		fclose(f);
	}
	lodge_answered(iscsi, status, data, private);
}

static int lodge_connect(struct iscsi_context *iscsi, const char *portal, struct lodge_reply *r) {
	return iscsi_full_connect_async(iscsi, portal, -1, lodge_answered, r);
}

static int lodge_discover(struct iscsi_context *iscsi, struct lodge_reply *r) {
	return iscsi_discovery_async(iscsi, lodge_discovered, r);
}

static int lodge_logout(struct iscsi_context *iscsi, struct lodge_reply *r) {
	return iscsi_logout_async(iscsi, lodge_answered, r);
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
)

const (
	// step is how long a wait for the socket is at most, and so how late the end of a context is seen.
	step = 100 * time.Millisecond
	// farewell bounds a logout.
	farewell = time.Second
)

// Initiator implements initiator.Initiator.
type Initiator struct{}

var _ initiator.Initiator = Initiator{}

// Available implements initiator.Initiator.
func (Initiator) Available() error { return nil }

// connection is a context of the library with the room that its callbacks write to, in C's memory.
type connection struct {
	iscsi   *C.struct_iscsi_context
	reply   *C.struct_lodge_reply
	timeout time.Duration
	// pending is the command that a broken session waits for still; the library must not meet a freed one.
	pending *C.struct_scsi_task
	// broken is why no more commands can be sent, or nil.
	broken error
}

// newConnection prepares a session and does not connect.
func newConnection(login initiator.Login) (*connection, error) {
	name := C.CString(login.Initiator)
	defer C.free(unsafe.Pointer(name))
	c := &connection{iscsi: C.iscsi_create_context(name), timeout: login.Timeout}
	if c.iscsi == nil {
		return nil, errors.New("libiscsi has no memory")
	}
	c.reply = (*C.struct_lodge_reply)(C.malloc(C.sizeof_struct_lodge_reply))
	*c.reply = C.struct_lodge_reply{}
	// A session that broke is not what a volume was opened with: whoever uses it shall hear of it.
	C.iscsi_set_noautoreconnect(c.iscsi, 1)
	if err := c.prepare(login); err != nil {
		c.destroy()
		return nil, err
	}
	return c, nil
}

// prepare says what to log in for, and as whom.
func (c *connection) prepare(login initiator.Login) error {
	kind := C.enum_iscsi_session_type(C.ISCSI_SESSION_DISCOVERY)
	if login.Target != "" {
		kind = C.ISCSI_SESSION_NORMAL
		target := C.CString(login.Target)
		defer C.free(unsafe.Pointer(target))
		if C.iscsi_set_targetname(c.iscsi, target) != 0 {
			return c.failure("set name of target", nil)
		}
	}
	if C.iscsi_set_session_type(c.iscsi, kind) != 0 {
		return c.failure("set kind of session", nil)
	}
	if login.User == "" {
		return nil
	}
	if strings.ContainsRune(string(login.Password), 0) || len(login.Password) > C.MAX_STRING_SIZE {
		return fmt.Errorf("a password for CHAP has at most %d bytes, none of them 0", C.MAX_STRING_SIZE)
	}
	user, password := C.CString(login.User), C.CString(string(login.Password))
	defer C.free(unsafe.Pointer(user))
	defer func() {
		C.memset(unsafe.Pointer(password), 0, C.size_t(len(login.Password)))
		C.free(unsafe.Pointer(password))
	}()
	if C.iscsi_set_initiator_username_pwd(c.iscsi, user, password) != 0 {
		return c.failure("set user", nil)
	}
	return nil
}

// connect connects and logs in. A name is tried by each of its addresses.
func (c *connection) connect(ctx context.Context, portal string) error {
	address := C.CString(portal)
	defer C.free(unsafe.Pointer(address))
	*c.reply = C.struct_lodge_reply{}
	if C.lodge_connect(c.iscsi, address, c.reply) != 0 {
		return c.failure("connect", initiator.ErrLost)
	}
	return c.wait(ctx, "log in")
}

// wait serves the session until the callback of what was begun was called.
func (c *connection) wait(ctx context.Context, what string) error {
	deadline := time.Now().Add(c.timeout)
	for c.reply.done == 0 {
		left := time.Until(deadline)
		switch {
		case ctx.Err() != nil:
			c.broken = fmt.Errorf("%s: %w", what, ctx.Err())
			return c.broken
		case left <= 0:
			c.broken = fmt.Errorf("%s: %w within %v", what, initiator.ErrTimeout, c.timeout)
			return c.broken
		}
		fds := []unix.PollFd{{Fd: int32(C.iscsi_get_fd(c.iscsi)), Events: int16(C.iscsi_which_events(c.iscsi))}}
		n, err := unix.Poll(fds, int(min(left, step)/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			c.broken = fmt.Errorf("%s: wait for the target: %w", what, err)
			return c.broken
		}
		if n <= 0 {
			continue
		}
		if C.iscsi_service(c.iscsi, C.int(fds[0].Revents)) != 0 && c.reply.done == 0 {
			c.broken = c.failure(what, initiator.ErrLost)
			return c.broken
		}
	}
	switch c.reply.status {
	case C.SCSI_STATUS_ERROR, C.SCSI_STATUS_CANCELLED, C.SCSI_STATUS_TIMEOUT:
		c.broken = c.failure(what, initiator.ErrLost)
		return c.broken
	}
	return nil
}

// refusals are the states of a login answer that say more than that it failed, RFC 7143 section 11.13.5, as the library prints them.
var refusals = []struct {
	state string
	err   error
}{
	{"(513)", initiator.ErrDenied}, {"(514)", initiator.ErrDenied}, {"(515)", initiator.ErrNoTarget},
}

// failure is what the library says of its last error, as kind or, of a login, as what the target says.
func (c *connection) failure(what string, kind error) error {
	words := strings.TrimSpace(C.GoString(C.iscsi_get_error(c.iscsi)))
	for _, r := range refusals {
		if strings.Contains(words, r.state) {
			kind = r.err
		}
	}
	switch {
	case kind == nil:
		return fmt.Errorf("%s: %s", what, words)
	case words == "":
		return fmt.Errorf("%s: %w", what, kind)
	}
	return fmt.Errorf("%s: %w: %s", what, kind, words)
}

// close logs out where that can be done, and frees all.
func (c *connection) close() {
	if c.broken == nil && C.iscsi_is_logged_in(c.iscsi) != 0 {
		*c.reply = C.struct_lodge_reply{}
		c.timeout = min(c.timeout, farewell)
		if C.lodge_logout(c.iscsi, c.reply) == 0 {
			_ = c.wait(context.Background(), "log out") // the connection goes either way
		}
	}
	c.destroy()
}

// destroy frees the session. What it waits for is called back, so that goes first.
func (c *connection) destroy() {
	C.iscsi_destroy_context(c.iscsi)
	if c.pending != nil {
		C.scsi_free_scsi_task(c.pending)
	}
	C.free(unsafe.Pointer(c.reply.text))
	C.free(unsafe.Pointer(c.reply))
}

// open connects to one of the addresses of a portal and logs in there.
func open(ctx context.Context, login initiator.Login) (*connection, error) {
	host, port, err := net.SplitHostPort(login.Portal)
	if err != nil {
		return nil, fmt.Errorf("address of the target: %w", err)
	}
	limit, cancel := context.WithTimeout(ctx, login.Timeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(limit, host)
	if err != nil {
		return nil, fmt.Errorf("look up the target's server: %w", err)
	}
	var failed error
	for _, address := range addresses {
		c, err := newConnection(login)
		if err != nil {
			return nil, err
		}
		if err = c.connect(ctx, net.JoinHostPort(address, port)); err == nil {
			return c, nil
		}
		c.destroy()
		if failed == nil || errors.Is(failed, initiator.ErrLost) {
			failed = err // what a target says is worth more than that an address has none
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// Discover implements initiator.Initiator.
func (Initiator) Discover(ctx context.Context, login initiator.Login) ([]initiator.Target, error) {
	login.Target = ""
	c, err := open(ctx, login)
	if err != nil {
		return nil, err
	}
	defer c.close()
	*c.reply = C.struct_lodge_reply{}
	if C.lodge_discover(c.iscsi, c.reply) != 0 {
		return nil, c.failure("look for targets", initiator.ErrLost)
	}
	if err := c.wait(ctx, "look for targets"); err != nil {
		return nil, err
	}
	text := C.GoStringN(c.reply.text, C.int(c.reply.size))
	var all []initiator.Target
	for line := range strings.Lines(text) {
		name, portal, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if n := len(all); n == 0 || all[n-1].Name != name {
			all = append(all, initiator.Target{Name: name})
		}
		last := &all[len(all)-1]
		last.Portals = append(last.Portals, portal)
	}
	return all, nil
}
