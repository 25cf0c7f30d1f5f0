package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/object"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	esx "github.com/lodgevirt/lodge/plugins/esx/internal/storage"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slack is the longest that a test waits for something to happen.
const slack = time.Minute

// driver is all that the driver can do.
type driver interface {
	storage.Driver
	storage.Volumes
	storage.Resizer
	storage.Wiper
	storage.Transfer
}

// bench is a host with a store that follows it.
type bench struct {
	*testing.T
	server   *vimtest.Server
	endpoint *endpoint.Endpoint
	feed     *inventory.Feed
	store    *esx.Store
	driver   driver
}

// options are those of tests: what takes long on a real host does not here, and a machine with much to do has time.
func options() esx.Options {
	return esx.Options{
		Follow: follow.Options{
			MaxWait: time.Second, Grace: 10 * time.Second, MinPause: 10 * time.Millisecond, MaxPause: 50 * time.Millisecond,
		},
		Patience: 15 * time.Second, Farewell: 2 * time.Second, Stall: 15 * time.Second,
	}
}

// open starts a host, and follows it.
func open(t *testing.T, o vimtest.Options) *bench {
	t.Helper()
	return openWith(t, o, options())
}

func openWith(t *testing.T, o vimtest.Options, how esx.Options) *bench {
	t.Helper()
	b := &bench{T: t, server: vimtest.Start(t, o), feed: inventory.NewFeed()}
	b.follow(how)
	if err := b.store.Ready(b.ctx()); err != nil {
		t.Fatal(err)
	}
	return b
}

// follow follows the host.
func (b *bench) follow(how esx.Options) {
	b.Helper()
	e, err := endpoint.Open(endpoint.Config{
		Name: "lab", Address: b.server.Address(), User: vimtest.User, Password: vimtest.Password, Thumbprint: b.server.SHA256(),
		ConnectTimeout: 3 * time.Second, CallTimeout: 15 * time.Second, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Close)
	ref := b.server.HostRef()
	host := func(ctx context.Context) (*object.HostSystem, error) {
		s, err := e.Session(ctx)
		if err != nil {
			return nil, err
		}
		return object.NewHostSystem(s.Client, ref), nil
	}
	store, err := esx.StartWith(e, host, b.feed, hclog.NewNullLogger(), how)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(store.Close)
	b.endpoint, b.store = e, store
	b.driver = esx.NewDriver(func(connection string) (*esx.Store, error) {
		if connection != "esx:///lab" {
			return nil, verr.New(verr.NoConnect, "no connection %q", connection)
		}
		return store, nil
	}).(driver)
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	b.Cleanup(cancel)
	return ctx
}

// object waits for a pool of a name in the feed.
func (b *bench) object(name string) *inventoryv1.PoolObject {
	b.Helper()
	var found *inventoryv1.PoolObject
	b.until("pool "+name, func(v *inventory.View) bool {
		for _, p := range v.Pools {
			if p.GetName() == name {
				found = p
			}
		}
		return found != nil
	})
	return found
}

// until waits for the feed.
func (b *bench) until(what string, holds func(*inventory.View) bool) {
	b.Helper()
	if _, err := b.feed.Await(b.ctx(), holds); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// pool is a pool of a datastore that the host has been given.
func (b *bench) pool(name string) *pb.Pool {
	b.Helper()
	o := b.object(name)
	return &pb.Pool{Uuid: o.GetUuid(), Name: o.GetName(), Type: o.GetType(), Xml: o.GetXml(), Connection: "esx:///lab"}
}

// vmfs gives the host a VMFS datastore, and returns its pool and the folder of its files.
func (b *bench) vmfs(name string) (*pb.Pool, string) {
	b.Helper()
	dir := b.server.AddDatastore(name, vimtest.VMFS)
	b.until("pool "+name, func(v *inventory.View) bool {
		for _, p := range v.Pools {
			if p.GetName() == name && p.GetType() == "fs" {
				return true
			}
		}
		return false
	})
	return b.pool(name), dir
}

func noProgress(uint64, uint64) {}

// definition is that of a volume.
func definition(name string, capacity uint64, rest string) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity>%s</volume>", name, capacity, rest)
}

const thin = "<allocation>0</allocation>"

func (b *bench) create(pool *pb.Pool, name string, capacity uint64, rest string) *pb.Volume {
	b.Helper()
	v, err := b.driver.Create(b.ctx(), &pb.CreateRequest{Pool: pool, Xml: definition(name, capacity, rest)}, noProgress)
	if err != nil {
		b.Fatalf("create %s: %v", name, err)
	}
	return v
}

// volumes are all of a pool, by name.
func (b *bench) volumes(pool *pb.Pool) map[string]*pb.Volume {
	b.Helper()
	all := map[string]*pb.Volume{}
	_, err := b.driver.Refresh(b.ctx(), pool, func(found ...*pb.Volume) error {
		for _, v := range found {
			if all[v.GetName()] != nil {
				b.Errorf("volume %q is told twice", v.GetName())
			}
			all[v.GetName()] = v
		}
		return nil
	})
	if err != nil {
		b.Fatalf("refresh: %v", err)
	}
	return all
}

// wantFiles checks what files a folder has, besides those whose names are given.
func (b *bench) wantFiles(dir string, want ...string) {
	b.Helper()
	var got []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			got = append(got, rel)
		}
		return err
	})
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		b.Errorf("the files are %q (%v), want %q", got, err, want)
	}
}

func (b *bench) wantCode(what string, err error, code verr.Code, words ...string) {
	b.Helper()
	if !verr.Is(err, code) {
		b.Errorf("%s: %v, want an error of code %d", what, err, code)
		return
	}
	if got := verr.From(err); got.Domain != verr.FromStorage {
		b.Errorf("%s: the domain is %d, not storage's", what, got.Domain)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			b.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

func (b *bench) write(pool *pb.Pool, v *pb.Volume, offset uint64, data []byte) error {
	b.Helper()
	sink, err := b.driver.Upload(b.ctx(), &pb.UploadBegin{Pool: pool, Volume: v, Offset: offset})
	if err != nil {
		return err
	}
	for piece := range slicesOf(data, 100_000) {
		if err := sink.Write(b.ctx(), piece); err != nil {
			sink.Abort()
			return err
		}
	}
	return sink.Finish(b.ctx())
}

// slicesOf cuts bytes into pieces.
func slicesOf(data []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			m := min(n, len(data))
			if !yield(data[:m]) {
				return
			}
			data = data[m:]
		}
	}
}

func (b *bench) read(pool *pb.Pool, v *pb.Volume, offset, length uint64) ([]byte, error) {
	b.Helper()
	source, err := b.driver.Download(b.ctx(), &pb.DownloadRequest{Pool: pool, Volume: v, Offset: offset, Length: length})
	if err != nil {
		return nil, err
	}
	var all bytes.Buffer
	for {
		data, hole, err := source.Next(b.ctx())
		if errors.Is(err, io.EOF) {
			return all.Bytes(), source.Close()
		}
		if err != nil {
			return nil, errors.Join(err, source.Close())
		}
		all.Write(data)
		all.Write(make([]byte, hole))
	}
}

// pattern is content that is nowhere the same.
func pattern(n int, seed byte) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16) + seed
	}
	return data
}
