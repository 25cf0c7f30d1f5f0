package manager

import "testing"

// BenchmarkAcquireAndRelease is one disk's lock, on the storage of the temporary folder.
func BenchmarkAcquireAndRelease(b *testing.B) {
	n := newNode(b, b.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	for b.Loop() {
		g.acquired(a)
		g.release(false)
	}
}

// BenchmarkLook is one look at the daemon, with the leases of a guest.
func BenchmarkLook(b *testing.B) {
	n := newNode(b, b.TempDir(), 1, nil)
	a := disk("/images/a")
	n.newGuest("guest", unspecified, a).acquired(a)
	for b.Loop() {
		n.m.lookOnce(b.Context(), true)
	}
}
