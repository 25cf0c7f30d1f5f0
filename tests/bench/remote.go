package main

import (
	"fmt"

	"github.com/lodgevirt/lodge/tests/wire"
)

// remote is libvirt's remote protocol (src/remote/remote_protocol.x of libvirt).
var remote = wire.Program{Number: 0x20008086, Version: 1}

// Procedures and flags of it.
const (
	procOpen        = 1
	procCreateXML   = 10
	procDefineXML   = 11
	procDestroy     = 12
	procGetXMLDesc  = 14
	procLookupName  = 23
	procAuthList    = 66
	procLibVersion  = 157
	procUndefine    = 231
	procListDomains = 273
	procAllStats    = 344

	statsState  = 1
	statsVCPU   = 8
	listActive  = 1
	startPaused = 1
)

// conn is a connection with an open URI.
type conn struct{ *wire.Conn }

// dial connects, asks for the kinds of authentication and opens the URI.
func dial(socket, uri string) (*conn, error) {
	raw, err := wire.Dial(socket)
	if err != nil {
		return nil, err
	}
	c := &conn{raw}
	open := wire.Uint32(wire.String(wire.Uint32(nil, 1), uri), 0)
	for _, step := range []struct {
		proc uint32
		args []byte
	}{{procAuthList, nil}, {procOpen, open}} {
		if _, err := c.call(step.proc, step.args); err != nil {
			c.Close()
			return nil, fmt.Errorf("open %s: %w", uri, err)
		}
	}
	return c, nil
}

// call makes a call and returns the payload of its answer, which is good until the next call.
func (c *conn) call(proc uint32, args []byte) ([]byte, error) { return c.Call(remote, proc, args) }
