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
	for _, others := range []int{0, 1000, 100000} {
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
				// A hundred of the same owner share a file, because there are fewer descriptors than leases.
				w := want(fmt.Sprint("other", n/100))
				w[0].Resource.Mode = lockspace.Shared
				if _, err := table.Acquire(b.Context(), o, w); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
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

// BenchmarkRecover opens the journal of a daemon that was killed: 10,000 leases, whose locks are free, or held by 100 guests' processes
// that inherited them.
func BenchmarkRecover(b *testing.B) {
	const many, guests = 10000, 100
	for _, c := range []struct {
		name      string
		inherited bool
	}{{"free", false}, {"inherited", true}} {
		b.Run(c.name, func(b *testing.B) {
			dir := memory(b)
			path := filepath.Join(dir, "journal")
			table, err := leases.Open(path, hclog.NewNullLogger())
			if err != nil {
				b.Fatal(err)
			}
			for n := range guests {
				o := guest(byte(n), 1)
				wants := make([]leases.Want, many/guests)
				resources := make([]lockspace.Resource, len(wants))
				for i := range wants {
					resources[i] = lockspace.ForDisk(dir, fmt.Sprint("/images/", n, "/", i), lockspace.Exclusive)
					wants[i].Resource = resources[i]
				}
				if _, err := table.Acquire(b.Context(), o, wants); err != nil {
					b.Fatal(err)
				}
				var files []*os.File
				if c.inherited {
					if files, err = table.Files(b.Context(), o, resources); err != nil {
						b.Fatal(err)
					}
				}
				o.Process, _ = sleeper(b, files...)
				for _, f := range files {
					f.Close()
				}
				if err := table.SetProcess(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := table.Close(); err != nil {
					b.Fatal(err)
				}
				if table, err = leases.Open(path, hclog.NewNullLogger()); err != nil {
					b.Fatal(err)
				}
				if err := table.Recovered(b.Context()); err != nil {
					b.Fatal(err)
				}
				if n := table.Counts(); n.Held != many {
					b.Fatalf("counts after a restart: %+v", n)
				}
			}
			if err := table.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
