package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// TestKillsWhileDevicesChange kills daemons at random moments while a client attaches and detaches a disk without a rest. Whenever all is back,
// the guest's definition, its locks and, of QEMU, its open files say the same.
func TestKillsWhileDevicesChange(t *testing.T) {
	for name, tc := range map[string]struct {
		uri, bus string
		xml      string
		rounds   int
		needs    []string
	}{
		"on the test driver": {testURI, "virtio", testDomain("life", "", ""), 40, nil},
		"on QEMU": {
			qemuURI, "usb", qemuDomain("life", "<controller type='usb' index='0' model='qemu-xhci'/>"), 16, []string{"qemu-system-x86_64"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, tc.needs...)
			seed := uint64(time.Now().UnixNano())
			t.Logf("the seed is %d", seed)
			s := &siege{t: t, host: startHost(t), uri: tc.uri, random: rand.New(rand.NewPCG(seed, 0))}
			image := blankImage(t, s.host, "b.img")
			c := &changer{siege: s, image: image, device: "<disk type='file' device='disk'><source file='" + image + "'/><target dev='sdb' bus='" + tc.bus + "'/></disk>"}
			c.open()
			if _, err := c.conn.DomainCreateXML(tc.xml, 0); err != nil {
				t.Fatal(err)
			}
			for round := range tc.rounds {
				c.begin()
				kinds := []rig.Kind{killable[s.random.IntN(len(killable))]}
				if tc.uri == qemuURI && round%4 == 3 {
					kinds = killable
				}
				s.strike(round, kinds...)
				c.end()
				eventually(t, settled, func() error { return c.verdict(round) })
			}
			if c.attached == 0 || c.detached == 0 {
				t.Errorf("the disk was attached %d times and detached %d times: nothing was tested", c.attached, c.detached)
			}
			t.Logf("the disk was attached %d times and detached %d times", c.attached, c.detached)
			_ = c.conn.Disconnect() // Every call has been answered.
		})
	}
}

// changer is a client that attaches and detaches a disk.
type changer struct {
	*siege
	device, image      string
	conn               *libvirt.Libvirt
	attached, detached int

	stop chan struct{}
	wg   sync.WaitGroup
}

// open connects, after a core has come back too.
func (c *changer) open() {
	c.t.Helper()
	eventually(c.t, answerWait, func() (err error) {
		c.conn, err = c.host.Dial(c.uri)
		return err
	})
}

// begin changes devices until end is called or the core is gone. What fails because something was killed is of no interest.
func (c *changer) begin() {
	dom, err := c.conn.DomainLookupByName("life")
	if err != nil {
		c.t.Fatal(err)
	}
	c.stop = make(chan struct{})
	c.wg.Go(func() {
		for {
			select {
			case <-c.stop:
				return
			case <-c.conn.Disconnected():
				return
			default:
			}
			if c.conn.DomainAttachDeviceFlags(dom, c.device, uint32(libvirt.DomainDeviceModifyLive)) == nil {
				c.attached++
			}
			if c.conn.DomainDetachDeviceFlags(dom, c.device, uint32(libvirt.DomainDeviceModifyLive)) == nil {
				c.detached++
			}
		}
	})
}

func (c *changer) end() {
	close(c.stop)
	c.wg.Wait()
	_ = c.conn.Disconnect() // It may be gone.
	c.open()
}

// verdict says what does not fit together.
func (c *changer) verdict(round int) error {
	dom, err := c.conn.DomainLookupByName("life")
	if err != nil {
		return err
	}
	xml, err := c.conn.DomainGetXMLDesc(dom, 0)
	if err != nil {
		return err
	}
	has := strings.Contains(xml, c.image)
	locks, err := c.host.Locks(c.t.Context())
	if err != nil {
		return err
	}
	held := 0
	for _, l := range locks {
		if l.GetOwnerName() == "life" {
			held++
		}
	}
	if has && held != 1 || !has && held != 0 {
		return fmt.Errorf("round %d: the guest has the disk: %v, and %d locks", round, has, held)
	}
	if c.uri == qemuURI && has != hasOpen(c.t, c.host, rig.Guest, c.image) {
		return fmt.Errorf("round %d: the guest has the disk: %v, and not what QEMU has", round, has)
	}
	if state, err := stateOf(c.conn, "life"); err != nil || state != libvirt.DomainRunning {
		return errors.Join(fmt.Errorf("round %d: the guest is in state %d", round, state), err)
	}
	return nil
}
