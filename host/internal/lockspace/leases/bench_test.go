package leases_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// memory is a folder in memory, where run directories are.
func memory(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "leases-bench")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// BenchmarkClassicPair takes and drops a lock file for an owner with a process, as virtlockd's clients do, beside other leases.
func BenchmarkClassicPair(b *testing.B) {
	for _, others := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprint("leases=", others), func(b *testing.B) {
			dir := memory(b)
			table, err := leases.Open(filepath.Join(dir, "journal"), hclog.NewNullLogger())
			if err != nil {
				b.Fatal(err)
			}
			defer table.Close()
			id, err := process.Find(int32(os.Getpid()))
			if err != nil {
				b.Fatal(err)
			}
			o := leases.Owner{Classic: true, Name: "guest", ID: 1, Process: id}
			want := func(name string) []leases.Want {
				return []leases.Want{{Resource: lockspace.Resource{Lockspace: dir, Name: name, Temporary: true}}}
			}
			for n := range others {
				if _, err := table.Acquire(b.Context(), guest(byte(n), uint64(n)), want(fmt.Sprint("other", n))); err != nil {
					b.Fatal(err)
				}
			}
			w := want("mine")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Acquire(b.Context(), o, w); err != nil {
					b.Fatal(err)
				}
				if err := table.ReleaseOne(b.Context(), o, w[0].Resource); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
