package main

import (
	"encoding/binary"
	"fmt"

	"github.com/lodgevirt/lodge/tests/wire"
)

// definition is the XML of an ordinary domain: a disk, a network interface, a console and a source of random numbers.
func definition(name string) string {
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%[1]s</name>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/%[1]s.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='pty'/>
    <console type='pty'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
`, name)
}

// tiny is the XML of the smallest guest: it is started paused, so it needs no system.
func tiny(name string) string {
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
`, name)
}

// domainName is the name of the n-th seeded domain.
func domainName(n int) string { return fmt.Sprintf("bench-%05d", n) }

// lookup finds a domain and returns it as the daemon encodes it, which is how other calls want it.
func lookup(c *conn, name string) ([]byte, error) {
	reply, err := c.call(procLookupName, wire.String(nil, name))
	return append([]byte(nil), reply...), err
}

// listCount lists all domains and returns how many there are.
func listCount(c *conn, flags uint32) (int, error) {
	reply, err := c.call(procListDomains, wire.Uint32(wire.Uint32(nil, 1), flags))
	if err != nil {
		return 0, err
	}
	if len(reply) < 4 {
		return 0, fmt.Errorf("list domains: answer of %d bytes", len(reply))
	}
	return int(binary.BigEndian.Uint32(reply)), nil
}

// allStats reads the statistics (state) of all domains and returns how many records there are.
func allStats(c *conn) (int, error) {
	args := wire.Uint32(wire.Uint32(wire.Uint32(nil, 0), statsState), 0)
	reply, err := c.call(procAllStats, args)
	if err != nil {
		return 0, err
	}
	if len(reply) < 4 {
		return 0, fmt.Errorf("read statistics: answer of %d bytes", len(reply))
	}
	return int(binary.BigEndian.Uint32(reply)), nil
}

// define stores a definition and returns the domain as the daemon encodes it.
func define(c *conn, xml string) ([]byte, error) {
	reply, err := c.call(procDefineXML, wire.String(nil, xml))
	return append([]byte(nil), reply...), err
}

// undefine removes a definition.
func undefine(c *conn, domain []byte) error {
	_, err := c.call(procUndefine, wire.Uint32(append([]byte(nil), domain...), 0))
	return err
}

// createPaused starts a transient guest whose vCPUs do not run.
func createPaused(c *conn, xml string) ([]byte, error) {
	reply, err := c.call(procCreateXML, wire.Uint32(wire.String(nil, xml), startPaused))
	return append([]byte(nil), reply...), err
}

// destroy ends a guest.
func destroy(c *conn, domain []byte) error {
	_, err := c.call(procDestroy, domain)
	return err
}
