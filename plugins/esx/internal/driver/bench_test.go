package driver_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/faketest"
)

// BenchmarkThousandMachines measures a plugin's process with 1,000 machines: from the first question to Synced, to the last definition, how
// long a change takes to be told, and the memory. The simulator, which needs 20 s to make the machines, is in the test's process.
func BenchmarkThousandMachines(b *testing.B) {
	const machines = 1000
	s := vimtest.Start(b, vimtest.Options{Machines: machines})
	s.Create("new")
	text := config(b, map[string]any{"lab": table(s, "esx")}, "")
	r := &rig{t: b, host: faketest.Launch(b, text, process)}
	r.host.SetSecret(secretID, []byte(vimtest.Password))
	var synced, defined, told time.Duration
	var memory float64
	for b.Loop() {
		r.host.Relaunch(b, text, process)
		r.conn = r.host.Conn
		begin := time.Now()
		p := r.followName("esx:///lab")
		p.synced()
		if len(p.guests) != machines+1 {
			b.Fatalf("%d guests are told", len(p.guests))
		}
		synced += time.Since(begin)
		p.until("all definitions", func() bool {
			for _, g := range p.guests {
				if g.GetXml() == "" {
					return false
				}
			}
			return true
		})
		defined += time.Since(begin)
		vcpus := 5 - p.guest("new").GetVcpus()%2
		s.Resize("new", 64, int32(vcpus))
		begin = time.Now()
		p.until("the change", func() bool { return p.guest("new").GetVcpus() == vcpus })
		told += time.Since(begin)
		memory = max(memory, resident(b, r.host.Process.Pid))
	}
	n := float64(b.N)
	b.ReportMetric(float64(synced.Milliseconds())/n, "ms-to-synced")
	b.ReportMetric(float64(defined.Milliseconds())/n, "ms-to-definitions")
	b.ReportMetric(float64(told.Milliseconds())/n, "ms-to-told")
	b.ReportMetric(memory, "MiB")
}

// resident is the largest resident memory that a process had, in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	b.Fatal("no VmHWM")
	return 0
}
