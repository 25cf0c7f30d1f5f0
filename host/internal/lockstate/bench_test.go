package lockstate

import (
	"fmt"
	"testing"
)

// thousands is a state with ten thousand locks.
func thousands() *State {
	s := &State{Magic: "1", Daemon: Daemon{Servers: []Server{{Name: "virtlockd"}}}, Lockspaces: []Lockspace{{Directory: "/var/lib/libvirt/lockd/files"}}}
	for n := range 10_000 {
		name := fmt.Sprintf("%064x", n)
		s.Lockspaces[0].Resources = append(s.Lockspaces[0].Resources, Resource{
			Name: name, Path: s.Lockspaces[0].Directory + "/" + name, FD: int32(n + 10), Held: true, Flags: 2, Owners: []int64{int64(n)},
		})
	}
	return s
}

func BenchmarkAppend(b *testing.B) {
	s := thousands()
	b.ReportAllocs()
	for b.Loop() {
		text, err := s.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
	}
}

func BenchmarkParse(b *testing.B) {
	text, err := thousands().Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
