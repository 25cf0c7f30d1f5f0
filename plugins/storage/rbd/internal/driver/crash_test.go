//go:build cgo && pacific

package driver

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

var errDead = errors.New("the process is dead")

// mortal is a connection that does so many changes and then nothing any more, as if its process had been killed. Its owner in the journal is a
// process that has ended.
type mortal struct {
	ceph.Pool
	left *atomic.Int64
	dead string
}

func (m *mortal) step() error {
	if m.left.Add(-1) < 0 {
		return errDead
	}
	return nil
}

func (m *mortal) SetValues(object string, values map[string][]byte) error {
	for key := range values {
		if strings.HasPrefix(key, "owner.") {
			values[key] = []byte(m.dead)
		}
	}
	return errors.Join(m.step(), m.Pool.SetValues(object, values))
}

func (m *mortal) RemoveValues(object string, keys ...string) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.RemoveValues(object, keys...)
}

func (m *mortal) Delete(object string) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.Delete(object)
}

func (m *mortal) Create(name string, size uint64) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.Create(name, size)
}

func (m *mortal) Clone(parent, snapshot, name string) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.Clone(parent, snapshot, name)
}

func (m *mortal) Rename(from, to string) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.Rename(from, to)
}

func (m *mortal) Remove(name string) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Pool.Remove(name)
}

func (m *mortal) Open(name string, readOnly bool) (ceph.Image, error) {
	image, err := m.Pool.Open(name, readOnly)
	if err != nil {
		return nil, err
	}
	return &mortalImage{image, m}, nil
}

type mortalImage struct {
	ceph.Image
	of *mortal
}

func (m *mortalImage) Snapshot(name string) error {
	if err := m.of.step(); err != nil {
		return err
	}
	return m.Image.Snapshot(name)
}

func (m *mortalImage) DropSnapshot(name string) error {
	if err := m.of.step(); err != nil {
		return err
	}
	return m.Image.DropSnapshot(name)
}

// Resize shrinks half and then is dead, where it is the last step: the end of the image is lost, and its size is as before.
func (m *mortalImage) Resize(size uint64) error {
	if err := m.of.step(); err != nil {
		if have, sizeErr := m.Size(); sizeErr == nil && have > size {
			_ = m.Discard(size, have-size)
		}
		return err
	}
	return m.Image.Resize(size)
}

// Close closes nothing when it is dead: the image stays open, as that of a process that was killed does for a while.
func (m *mortalImage) Close() error {
	if m.of.left.Load() < 0 {
		return errDead
	}
	return m.Image.Close()
}

// TestEachStepMayBeTheLast lets the driver's process end after each step of each kind of work, and holds that the next process's refresh leaves
// each image as it was, or as it was to be.
func TestEachStepMayBeTheLast(t *testing.T) {
	b := newBench(t)
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	dead, err := journal.ProcessName(child.Process.Pid, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, work := range map[string]func(*bench) (before, after string, err error){
		"create": func(b *bench) (string, string, error) {
			_, err := b.create(&pb.CreateRequest{Xml: vol("new", 8<<20)})
			return "base:8388608", "base:8388608 new:8388608", err
		},
		"clone": func(b *bench) (string, string, error) {
			_, err := b.create(&pb.CreateRequest{Xml: vol("new", 9<<20), FromPool: b.pool, From: &pb.Volume{Name: "base", Capacity: 8 << 20}})
			return "base:8388608", "base:8388608@1 new:9437184", err
		},
		"remove": func(b *bench) (string, string, error) {
			return "base:8388608", "", b.remove(&pb.Volume{Name: "base"}, removeSnapshots|removeZeroed)
		},
		"shrink": func(b *bench) (string, string, error) {
			_, err := pb.NewResizeServiceClient(b.conn).Resize(b.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: &pb.Volume{Name: "base"}, Capacity: 4 << 20, Flags: resizeShrink})
			return "base:8388608", "base:4194304", err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for steps := int64(0); ; steps++ {
				b.clear()
				base := b.must(&pb.CreateRequest{Xml: vol("base", 8<<20)})
				if err := b.upload(base, 0, bytes.Repeat([]byte("x"), 8<<20)); err != nil {
					t.Fatal(err)
				}
				left := &atomic.Int64{}
				left.Store(steps)
				dying := *b
				dying.TB = t
				dying.conn = faketest.Client(t, Plugin("1.0.0", func(o ceph.Options) (ceph.Pool, error) {
					pool, err := librados.Dial(o)
					return &mortal{pool, left, dead}, err
				}, nil))
				before, after, err := work(&dying)
				done := left.Load() >= 0
				got := b.state()
				if err == nil && got != after || got != before && got != after {
					t.Errorf("after %d steps: %q, error %v", steps, got, err)
				}
				if got == before && got != after {
					if data, _, err := b.download(base, 0, 0, false); err != nil || !bytes.Equal(data, bytes.Repeat([]byte("x"), 8<<20)) {
						t.Errorf("after %d steps: the image has lost data, error %v", steps, err)
					}
				}
				b.nothingLeft()
				if done {
					if err != nil {
						t.Error(err)
					}
					t.Logf("%d steps", steps)
					return
				}
			}
		})
	}
}

// state refreshes, and describes all images: name, size, and number of snapshots, if any.
func (b *bench) state() string {
	b.Helper()
	all, _, err := b.refresh(b.pool)
	if err != nil {
		b.Fatal(err)
	}
	script := "for i in $(rbd ls | sort); do n=$(rbd snap ls $i | tail -n +2 | wc -l); printf '%s:%s' $i $(rbd info $i --format json | sed 's/.*\"size\":\\([0-9]*\\).*/\\1/'); [ $n = 0 ] || printf '@%s' $n; echo; done"
	out, err := b.ceph.Run(b.ended(), "sh", "-c", script)
	if err != nil {
		b.Fatal(err)
	}
	state := strings.Join(strings.Fields(out), " ")
	if n := len(strings.Fields(out)); n != len(all) {
		b.Errorf("%d volumes, there are %q", len(all), state)
	}
	return state
}
