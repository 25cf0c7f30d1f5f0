package driver

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// BenchmarkCreate makes raw volumes, by the driver itself and through the contract.
func BenchmarkCreate(b *testing.B) {
	def := fmt.Sprintf("<pool type='dir'><name>p</name><target><path>%s</path></target></pool>", filepath.Join(b.TempDir()))
	pool := &pb.Pool{Name: "p", Type: "dir", Xml: def}
	req := func(n int) *pb.CreateRequest {
		return &pb.CreateRequest{Pool: pool, Xml: fmt.Sprintf("<volume><name>v%d</name><capacity>1048576</capacity><allocation>0</allocation></volume>", n)}
	}
	n := 0
	b.Run("driver", func(b *testing.B) {
		d := &Driver{}
		for b.Loop() {
			n++
			if _, err := d.Create(b.Context(), req(n), func(uint64, uint64) {}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("contract", func(b *testing.B) {
		client := pb.NewVolumeServiceClient(faketest.Client(b, Plugin("1.0.0")))
		for b.Loop() {
			n++
			s, err := client.Create(b.Context(), req(n))
			for err == nil {
				_, err = s.Recv()
			}
		}
	})
}
