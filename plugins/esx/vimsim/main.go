// Command vimsim runs a simulated ESX host or vCenter server on this machine for tests and benchmarks. It prints one line of JSON that says
// how to reach it (see reach), serves until its standard input ends or it is told to stop, and leaves nothing behind.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"

	"github.com/vmware/govmomi/simulator"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
)

// target is the iSCSI target that every host has.
const target = "iqn.2016-09.example.vimsim:disks"

// options are the command line.
type options struct {
	machines int
	vpx      bool
	peer     bool
}

// reach says how to reach the simulator.
type reach struct {
	// Address is host and port, which take HTTPS alone.
	Address string `json:"address"`
	// User and Password are the only ones that it lets in.
	User     string `json:"user"`
	Password string `json:"password"`
	// Thumbprint is the SHA-256 fingerprint of its certificate.
	Thumbprint string `json:"thumbprint"`
}

func main() {
	var o options
	flag.IntVar(&o.machines, "machines", 2, "number of virtual machines, all on (with -vpx: of each resource pool)")
	flag.BoolVar(&o.vpx, "vpx", false, "simulate a vCenter server, not an ESX host")
	flag.BoolVar(&o.peer, "peer", false, "be good enough for libvirt's own ESX driver too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, o, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vimsim:", err)
		os.Exit(1)
	}
}

// run serves until the context or the input ends.
func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	model := simulator.ESX()
	if o.vpx {
		model = simulator.VPX()
	}
	model.Machine = o.machines
	defer model.Remove()
	if err := model.Create(); err != nil {
		return fmt.Errorf("create model: %w", err)
	}
	vimtest.Extend(model)
	for _, host := range model.Map().All("HostSystem") {
		vimtest.AddTarget(model, host.Reference(), target, "192.0.2.1", 3260, vimtest.Unit{Name: "naa.600000000000000000000001", Blocks: 1 << 21})
	}
	if o.peer {
		if err := peer.Prepare(model); err != nil {
			return fmt.Errorf("prepare model: %w", err)
		}
	}
	model.Service.Listen = &url.URL{User: url.UserPassword(vimtest.User, vimtest.Password)}
	back := model.Service.NewServer()
	defer back.Close()
	model.Service.ServeMux.HandleFunc("/screen", vimtest.Screen)
	front := httptest.NewUnstartedServer(model.Service.ServeMux)
	if o.peer {
		front.Config.Handler = peer.Handler(model.Service.ServeMux)
	}
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	defer front.Close()
	sum := sha256.Sum256(front.Certificate().Raw)
	line := reach{
		Address: front.Listener.Addr().String(), User: vimtest.User, Password: vimtest.Password, Thumbprint: hex.EncodeToString(sum[:]),
	}
	if err := json.NewEncoder(out).Encode(line); err != nil {
		return fmt.Errorf("say how to be reached: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	front.CloseClientConnections()
	return nil
}
