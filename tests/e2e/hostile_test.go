package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// garbage returns bytes whose first four are a length.
func garbage(length uint32, n int) []byte {
	source := rand.New(rand.NewPCG(1, 2))
	b := binary.BigEndian.AppendUint32(nil, length)
	for range n {
		b = append(b, byte(source.Uint32()))
	}
	return b
}

// TestHostileFrames sends what no client would, and expects a clear end or a clear error, and that others do not notice.
func TestHostileFrames(t *testing.T) {
	h := startSettledHost(t)
	witness := connect(t, h.Socket())
	open(t, witness, testURI)
	before := descriptors(t, h)
	short := call(procOpen, []byte{0, 0})
	for name, tc := range map[string]struct {
		send []byte
		// code of the answer; 0 is a connection that is closed without one.
		code    uint32
		message string
	}{
		"a length of nothing":             {send: garbage(0, 64)},
		"a length below the length word":  {send: garbage(3, 64)},
		"a length below the header":       {send: garbage(20, 64)},
		"a length beyond the limit":       {send: garbage(33554432+5, 64)},
		"the largest length":              {send: garbage(0xffffffff, 4096)},
		"a language of its own":           {send: []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		"an unknown program":              {send: frame(header{program: 7, version: 1, procedure: 1, serial: 1}, nil), code: 39},
		"an unknown version":              {send: frame(header{program: remoteProgram, version: 9, procedure: 1, serial: 1}, nil), code: 39},
		"procedure 0":                     {send: call(0, nil), code: 39, message: "unknown procedure"},
		"a procedure beyond the last":     {send: call(20000, nil), code: 39, message: "unknown procedure"},
		"a negative procedure":            {send: call(-1, nil), code: 39, message: "unknown procedure"},
		"an event's number":               {send: call(318, nil), code: 39, message: "unknown procedure"},
		"arguments that end too soon":     {send: short, code: 39},
		"a string that is longer than it": {send: call(23, []byte{0x7f, 0xff, 0xff, 0xff}), code: 39},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, h.Socket())
			if tc.code != 0 && !strings.HasPrefix(name, "arguments") {
				open(t, conn, testURI)
			} else if r, err := exchange(conn, call(procAuthList, nil)); err != nil || r.code != 0 {
				t.Fatalf("list kinds of authentication: %v %s", err, r.message)
			}
			r, err := exchange(conn, tc.send)
			if tc.code == 0 {
				if !closed(err) {
					t.Errorf("the answer is %d %q (%v), want the end of the connection", r.code, r.message, err)
				}
			} else if err != nil || r.code != tc.code || !strings.HasPrefix(r.message, tc.message) {
				t.Errorf("the answer is %d %q (%v), want %d %q", r.code, r.message, err, tc.code, tc.message)
			}
			if r, err := exchange(witness, call(procLibVersion, nil)); err != nil || r.code != 0 {
				t.Errorf("another client is not served: %v %s", err, r.message)
			}
			_ = conn.Close() // The daemon may have closed it.
		})
	}
	eventually(t, answerWait, func() error {
		if now := descriptors(t, h); now > before {
			return fmt.Errorf("the core has %d descriptors, before it had %d", now, before)
		}
		return nil
	})
}

// closed says whether an error is the end of a connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// TestClientsThatStopHalfway leaves connections open in the middle of frames and expects others to be served.
func TestClientsThatStopHalfway(t *testing.T) {
	h := startHost(t)
	whole := call(procLibVersion, nil)
	for n := range len(whole) {
		conn := connect(t, h.Socket())
		if _, err := conn.Write(whole[:n]); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a half-closed connection still gets its answer", func(t *testing.T) {
		conn := connect(t, h.Socket())
		open(t, conn, testURI)
		if _, err := conn.Write(whole); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if r, err := readReply(conn); err != nil || r.code != 0 {
			t.Errorf("the answer is %d %q (%v), want the version", r.code, r.message, err)
		}
	})
	t.Run("a client that never reads stops nobody", func(t *testing.T) {
		deaf := connect(t, h.Socket())
		open(t, deaf, testURI)
		if err := deaf.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		list := call(7, nil) // The capabilities are a large answer to a small call.
		for {
			if _, err := deaf.Write(list); err != nil {
				break
			}
		}
		conn := connect(t, h.Socket())
		open(t, conn, testURI)
		if r, err := exchange(conn, whole); err != nil || r.code != 0 {
			t.Errorf("another client is not served: %v %s", err, r.message)
		}
	})
}

// TestThousandsOfConnections opens more connections than the daemon takes, and expects those that it has to be served.
func TestThousandsOfConnections(t *testing.T) {
	h := startSettledHost(t)
	first := connect(t, h.Socket())
	open(t, first, testURI)
	before := descriptors(t, h)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 5500 {
		t.Skipf("only %d descriptors are allowed", limit.Cur)
	}
	var (
		dialer = net.Dialer{Timeout: 5 * time.Second}
		conns  []net.Conn
	)
	for range 5200 {
		conn, err := dialer.DialContext(t.Context(), "unix", h.Socket())
		if err != nil {
			break // The daemon does not take more, which is its right.
		}
		conns = append(conns, conn)
	}
	if len(conns) < 4000 {
		t.Errorf("%d connections were made, want some thousands", len(conns))
	}
	if r, err := exchange(first, call(procLibVersion, nil)); err != nil || r.code != 0 {
		t.Errorf("the first client is not served: %v %s", err, r.message)
	}
	for _, conn := range conns {
		_ = conn.Close() // The daemon may have closed it.
	}
	eventually(t, answerWait, func() error {
		if now := descriptors(t, h); now > before {
			return fmt.Errorf("the core has %d descriptors, before it had %d", now, before)
		}
		return nil
	})
	last := connect(t, h.Socket())
	open(t, last, testURI)
}

// descriptors counts the open descriptors of the core.
func descriptors(t *testing.T, h *rig.Host) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestHostileDefinitions defines what must not be accepted.
func TestHostileDefinitions(t *testing.T) {
	h := startHost(t)
	conn, err := h.Dial(testURI)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // The host ends it if it does not.
	const uuid = "<uuid>11111111-2222-3333-4444-555555555555</uuid>"
	named := func(name, extra string) string {
		return strings.Replace(testDomain(name, "", ""), "</name>", "</name>"+extra, 1)
	}
	if _, err := conn.DomainDefineXML(named("taken", uuid)); err != nil {
		t.Fatal(err)
	}
	entities := `<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>`
	for name, tc := range map[string]struct {
		xml   string
		codes []libvirt.ErrorNumber
	}{
		"nothing":                       {"", xmlErrors},
		"no XML":                        {"hello", xmlErrors},
		"an element that never ends":    {"<domain", xmlErrors},
		"another document":              {"<network><name>n</name></network>", xmlErrors},
		"no name":                       {strings.Replace(testDomain("x", "", ""), "<name>x</name>", "", 1), xmlErrors},
		"an empty name":                 {testDomain("", "", ""), xmlErrors},
		"a name with a slash":           {testDomain("a/b", "", ""), xmlErrors},
		"a UUID that is none":           {named("u", "<uuid>nonsense</uuid>"), xmlErrors},
		"memory that is no number":      {strings.Replace(testDomain("m", "", ""), "64", "many", 1), xmlErrors},
		"entities that multiply":        {entities + strings.Replace(testDomain("e", "", ""), ">e<", ">&c;<", 1), xmlErrors},
		"an entity that reads a file":   {`<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + testDomain("&x;", "", ""), xmlErrors},
		"elements in elements for ever": {strings.Repeat("<domain>", 100000), xmlErrors},
		"a name that is taken":          {named("taken", ""), []libvirt.ErrorNumber{libvirt.ErrOperationFailed}},
		"a UUID that is taken":          {named("other", uuid), []libvirt.ErrorNumber{libvirt.ErrOperationFailed}},
		"5 MiB":                         {testDomain("big", "", "<big xmlns='urn:big'>"+strings.Repeat("x", 5<<20)+"</big>"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := conn.DomainDefineXML(tc.xml)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if len(tc.codes) > 0 && !hasCode(err, tc.codes) {
				t.Errorf("the error is %v, want one of %v", err, tc.codes)
			}
		})
	}
	t.Run("and nothing of it is left", func(t *testing.T) {
		domains, _, err := conn.ConnectListAllDomains(1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(domains) != 2 {
			t.Errorf("%d domains are listed, want the driver's own and the one that was defined", len(domains))
		}
	})
	t.Run("64 MiB end the connection of its sender alone", func(t *testing.T) {
		other, err := h.Dial(testURI)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Disconnect() }() // It ends by itself.
		if _, err := other.DomainDefineXML(strings.Repeat("x", 64<<20)); err == nil {
			t.Error("64 MiB were accepted")
		}
		if _, err := conn.ConnectGetLibVersion(); err != nil {
			t.Errorf("another client is not served: %v", err)
		}
	})
}

// xmlErrors are the codes for XML that cannot be understood.
var xmlErrors = []libvirt.ErrorNumber{libvirt.ErrXMLError, libvirt.ErrXMLDetail, libvirt.ErrInternalError, libvirt.ErrNoName}

// hasCode says whether an error is a libvirt error with one of the codes.
func hasCode(err error, codes []libvirt.ErrorNumber) bool {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == uint32(code) {
			return true
		}
	}
	return false
}
