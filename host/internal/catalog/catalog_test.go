package catalog

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
)

const uri = "test:///default"

func open(t testing.TB, path string) *Catalog {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDomainSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	c := open(t, path)
	d := Domain{
		UUID: uuid.New(), Name: "guest", Persistent: true, Generation: 3, Phase: Active, ID: 7,
		Summary: Summary{MaxMemoryKiB: 1024, VCPUs: 2}, Handle: &Handle{Version: 1, Data: []byte{0, 1}, PID: 12, StartTime: 99},
	}
	err := c.Update(func(tx *Tx) error {
		return errors.Join(tx.PutDomain(uri, &d), tx.PutConfig(uri, d.UUID, "<domain/>"), tx.PutLive(uri, d.UUID, "<domain id='7'/>"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(func(*Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Fatalf("update of a closed catalog: %v", err)
	}

	c = open(t, path)
	got, err := c.Domains(uri)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Domain{d}, got); diff != "" {
		t.Fatal(diff)
	}
	if xml, _ := c.Live(uri, d.UUID); xml != "<domain id='7'/>" {
		t.Fatalf("live XML %q", xml)
	}
	if n, _ := c.Starts(); n != 2 {
		t.Fatalf("%d starts, want 2", n)
	}
	if err := c.Update(func(tx *Tx) error { return tx.DeleteDomain(uri, d.UUID) }); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.Domains(uri); len(got) != 0 {
		t.Fatalf("deleted domain is still there: %v", got)
	}
	if xml, _ := c.Config(uri, d.UUID); xml != "" {
		t.Fatalf("deleted definition is still there: %q", xml)
	}
}

func TestFailedChangeLeavesOthersOfItsGroup(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "catalog.db"))
	bad := errors.New("bad")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			err := c.Update(func(tx *Tx) error {
				if err := tx.PutValue("ns", fmt.Sprintf("k%03d", i), []byte("v")); err != nil {
					return err
				}
				if i%10 == 0 {
					return bad
				}
				return nil
			})
			if (i%10 == 0) != errors.Is(err, bad) {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	keys, err := c.Keys("ns", "k")
	if err != nil || len(keys) != 90 {
		t.Fatalf("%d keys, %v; want the 90 good ones", len(keys), err)
	}
	if _, ok, _ := c.Value("ns", "k010"); ok {
		t.Fatal("a failed change was written")
	}
}

func TestOtherLayoutIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	c := open(t, path)
	err := c.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySchema, bytesOf(schema+1)) })
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Open(path); !errors.Is(err, ErrSchema) {
		t.Fatalf("open: %v, want ErrSchema", err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := open(b, filepath.Join(b.TempDir(), "catalog.db"))
			xml := string(make([]byte, 3000))
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					d := Domain{UUID: uuid.New(), Name: "guest"}
					if err := c.Update(func(tx *Tx) error {
						return errors.Join(tx.PutDomain(uri, &d), tx.PutConfig(uri, d.UUID, xml))
					}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
