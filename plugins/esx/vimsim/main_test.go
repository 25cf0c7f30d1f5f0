package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/url"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
)

func TestItServesUntilItsInputEnds(t *testing.T) {
	for name, o := range map[string]options{
		"ESX": {machines: 3}, "ESX for libvirt": {machines: 3, peer: true}, "VPX": {machines: 1, vpx: true}, "VPX for libvirt": {machines: 1, vpx: true, peer: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			input, end := io.Pipe()
			said, output := io.Pipe()
			done := make(chan error, 1)
			go func() {
				defer func() { _ = output.Close() }()
				done <- run(ctx, o, input, output)
			}()
			line, err := bufio.NewReader(said).ReadBytes('\n')
			if err != nil {
				t.Fatal(err, <-done)
			}
			var r reach
			if err := json.Unmarshal(line, &r); err != nil || len(r.Thumbprint) != 64 {
				t.Fatalf("it says %s: %v", line, err)
			}
			client, err := govmomi.NewClient(ctx, &url.URL{Scheme: "https", Host: r.Address, Path: "/sdk", User: url.UserPassword(r.User, r.Password)}, true)
			if err != nil {
				t.Fatal(err)
			}
			machines, err := find.NewFinder(client.Client).VirtualMachineList(ctx, "/...")
			if err != nil || len(machines) < o.machines || client.IsVC() != o.vpx {
				t.Errorf("there are %d machines, vCenter %v: %v", len(machines), client.IsVC(), err)
			}
			if err := end.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
