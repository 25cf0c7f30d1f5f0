package door

import (
	"context"
	"fmt"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"
)

// manyDomains is how many domains the benchmarks of bulk calls have; benchDomain is one of them.
const (
	manyDomains = 10000
	benchDomain = "guest-00042"
)

// BenchmarkCall is a round trip through the socket: the smallest call, those that name a domain, and those that name them all.
func BenchmarkCall(b *testing.B) {
	bench := newBench(b, Limits{})
	defineMany(b, bench, manyDomains)
	c := bench.open(bench.path)
	var dom libvirt.DomainLookupByNameRet
	c.must(procDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: benchDomain}, &dom)
	for _, call := range []struct {
		name string
		proc int32
		args any
	}{
		{"smallest", procConnectGetLibVersion, &void{}},
		{"lookup by name", procDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: benchDomain}},
		{"definition", procDomainGetXmlDesc, &libvirt.DomainGetXMLDescArgs{Dom: dom.Dom}},
		{"list of all", procConnectListAllDomains, &libvirt.ConnectListAllDomainsArgs{NeedResults: 1}},
		{"states of all", procConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{Stats: 1}},
	} {
		b.Run(call.name, func(b *testing.B) {
			c := bench.open(bench.path) // one for each, since a client's patience ends
			b.ReportAllocs()
			for b.Loop() {
				c.must(call.proc, call.args, nil)
			}
		})
	}
}

// defineMany defines domains, many at a time so that they share commits.
func defineMany(b *testing.B, bench *bench, n int) {
	var g errgroup.Group
	g.SetLimit(128)
	for k := range n {
		g.Go(func() error {
			_, err := bench.domains.Define(context.Background(), guestXML(fmt.Sprintf("guest-%05d", k)), 0)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}
