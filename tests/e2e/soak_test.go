package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// soakClients is how many clients work at once, each for soakTime.
const (
	soakClients = 200
	soakTime    = 10 * time.Second
)

// TestSoak lets many clients work on domains of their own at once, and expects no error, and nothing to be left.
func TestSoak(t *testing.T) {
	h := startSettledHost(t)
	before := descriptors(t, h)
	var (
		wg    sync.WaitGroup
		errs  = make([]error, soakClients)
		turns = make([]int, soakClients)
		end   = time.Now().Add(soakTime)
	)
	for i := range soakClients {
		wg.Go(func() {
			conn, err := h.Dial(testURI)
			if err != nil {
				errs[i] = err
				return
			}
			defer func() { _ = conn.Disconnect() }() // Every call has been answered.
			for time.Now().Before(end) && errs[i] == nil {
				errs[i] = soakTurn(conn, fmt.Sprintf("soak-%d", i))
				turns[i]++
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("clients failed: %v", err)
	}
	for i, n := range turns {
		if n == 0 {
			t.Errorf("client %d was never served", i)
		}
	}
	eventually(t, answerWait, func() error {
		if now := descriptors(t, h); now > before+8 {
			return fmt.Errorf("the core has %d descriptors, before it had %d", now, before)
		}
		return nil
	})
	locks, err := h.Locks(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, lock := range locks {
		if strings.HasPrefix(lock.GetOwnerName(), "soak-") {
			t.Errorf("the lock of %s is left", lock.GetOwnerName())
		}
	}
	conn, err := h.Dial(testURI)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // The host ends it if it does not.
	if domains, _, err := conn.ConnectListAllDomains(1, 0); err != nil || len(domains) != 1 {
		t.Errorf("%d domains are left (%v), want the driver's own", len(domains), err)
	}
}

// soakTurn runs the life of one domain.
func soakTurn(conn *libvirt.Libvirt, name string) error {
	dom, err := conn.DomainDefineXML(testDomain(name, disk("/pretended/"+name), ""))
	if err != nil {
		return fmt.Errorf("define: %w", err)
	}
	if err := conn.DomainCreate(dom); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if _, _, err := conn.ConnectListAllDomains(1, 0); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	state, _, err := conn.DomainGetState(dom, 0)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if libvirt.DomainState(state) != libvirt.DomainRunning {
		return fmt.Errorf("the state after start is %d", state)
	}
	if _, err := conn.DomainGetXMLDesc(dom, 0); err != nil {
		return fmt.Errorf("read XML: %w", err)
	}
	if err := conn.DomainDestroy(dom); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	if err := conn.DomainUndefine(dom); err != nil {
		return fmt.Errorf("undefine: %w", err)
	}
	return nil
}

// TestHungDriverCallsStopNobody lets starts hang in the driver and expects everything else to work meanwhile.
func TestHungDriverCallsStopNobody(t *testing.T) {
	const hung = 26
	h := startHost(t)
	conn, err := h.Dial(testURI)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // The host ends it if it does not.
	for i := range hung {
		own, err := h.Dial(testURI)
		if err != nil {
			t.Fatal(err)
		}
		dom, err := own.DomainDefineXML(testDomain(fmt.Sprintf("hung-%d", i), "", faults("<lodge:fail point='start' action='hang'/>")))
		if err != nil {
			t.Fatal(err)
		}
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			_ = own.DomainCreate(dom) // It hangs; what ends it is the end of its connection.
		}()
		t.Cleanup(func() {
			_ = own.Disconnect() // The call on it never returned.
			<-returned
		})
	}
	done := make(chan error, 1)
	go func() { done <- soakTurn(conn, "brisk") }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("another domain's life failed meanwhile: %v", err)
		}
	case <-time.After(answerWait):
		t.Errorf("another domain's life is held up by %d calls that hang", hung)
	}
}
