package storage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// TestVolumesAreBounded has more files than are told. It takes long.
func TestVolumesAreBounded(t *testing.T) {
	if os.Getenv("LODGE_TEST_SLOW") == "" {
		t.Skip("LODGE_TEST_SLOW is not set")
	}
	const most = 100_000
	b := open(t, vimtest.Options{})
	pool, dir := b.vmfs("ds1")
	for n := range most + 3 {
		if n%1000 == 0 {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("%03d", n/1000)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		put(t, dir, fmt.Sprintf("%03d/%06d.iso", n/1000, n), nil)
	}
	begun, told := time.Now(), 0
	last := ""
	_, err := b.driver.Refresh(b.ctx(), pool, func(all ...*pb.Volume) error {
		told += len(all)
		last = all[len(all)-1].GetName()
		return nil
	})
	if err != nil || told != most || last != "099/099999.iso" {
		t.Errorf("%d are told, the last is %q, %v", told, last, err)
	}
	t.Logf("refresh of %d: %s", told, time.Since(begun))
}
