package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
	"github.com/lodgevirt/lodge/tests/wire"
)

// storageRounds is how often each daemon's storage is measured, in turns with the other. Each figure is the median.
const storageRounds = 3

// sparseSize is the size of the volumes of which there are many, in bytes. Nothing is written to them, so that they take no room.
const sparseSize = 1 << 20

// Procedures of storage.
const (
	procPoolCreateXML = 76
	procPoolDestroy   = 80
	procPoolRefresh   = 83
	procVolCreateXML  = 93
	procVolDelete     = 94
	procListVolumes   = 282
)

// measureStorage measures the pools of lodged and libvirtd.
func measureStorage(ctx context.Context, who chosen, bin, scratch string, p plan) ([]*result, error) {
	var makers []func(dir string) target
	if who.ours {
		makers = append(makers, func(dir string) target { return newLodge(bin, dir) })
	}
	if who.theirs {
		makers = append(makers, func(dir string) target { return newLibvirtd(dir) })
	}
	rounds := make([][]*result, len(makers))
	var errs []error
	for n := range storageRounds {
		for i, make := range makers {
			t := make(filepath.Join(scratch, fmt.Sprintf("s%d%d", n, i)))
			fmt.Fprintf(os.Stderr, "measuring storage of %s\n", t.name())
			r, err := measurePools(ctx, t, filepath.Join(scratch, "pools"), p)
			if err != nil {
				errs = append(errs, fmt.Errorf("measure storage of %s: %w", t.name(), err))
			}
			rounds[i] = append(rounds[i], r)
		}
	}
	var results []*result
	for _, r := range rounds {
		results = append(results, middle(r))
	}
	return results, errors.Join(errs...)
}

// poolMeter measures the storage of one target, with pools below a folder.
type poolMeter struct {
	t    target
	dir  string
	plan plan
	r    *result
	c    *conn
}

// measurePools takes every figure. What could be measured before an error is in the result.
func measurePools(ctx context.Context, t target, dir string, p plan) (r *result, err error) {
	m := &poolMeter{t: t, dir: dir, plan: p, r: newResult(t.name())}
	defer func() { err = errors.Join(err, t.close(), os.RemoveAll(dir)) }()
	if _, err := begin(ctx, t, 0); err != nil {
		return m.r, err
	}
	if m.c, err = dial(t.socket(), t.uri()); err != nil {
		return m.r, err
	}
	defer m.c.Close()
	for _, s := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"create and delete", m.volumes},
		{"upload and download", m.content},
		{"sparse volumes", func(ctx context.Context) error { return m.many(ctx, "sparse", makeSparse) }},
		{"qcow2 volumes", func(ctx context.Context) error { return m.many(ctx, "qcow2", makeQcow2) }},
	} {
		progress(os.Stderr, "%s: %s", t.name(), s.what)
		if err := s.run(ctx); err != nil {
			return m.r, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return m.r, nil
}

// pool makes a transient pool over a folder, and returns it as the daemon encodes it.
func (m *poolMeter) pool(name string) ([]byte, string, error) {
	dir := filepath.Join(m.dir, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, "", err
	}
	xml := fmt.Sprintf("<pool type='dir'><name>bench-%s</name><target><path>%s</path></target></pool>", name, dir)
	reply, err := m.c.call(procPoolCreateXML, wire.Uint32(wire.String(nil, xml), 0))
	return append([]byte(nil), reply...), dir, err
}

// end ends a transient pool and removes its folder.
func (m *poolMeter) end(pool []byte, dir string) error {
	_, err := m.c.call(procPoolDestroy, pool)
	return errors.Join(err, os.RemoveAll(dir))
}

// many measures a pool of many volumes: the first refresh, those after it, and lists.
func (m *poolMeter) many(ctx context.Context, kind string, make func(dir string, n int) error) error {
	pool, dir, err := m.pool(kind)
	if err != nil {
		return err
	}
	n := m.plan.large
	if err := make(dir, n); err != nil {
		return err
	}
	refresh := wire.Uint32(append([]byte(nil), pool...), 0)
	what := fmt.Sprintf("refresh of %d %s volumes", n, kind)
	began, before := time.Now(), cpuTime(m.t.pids())
	if _, err := m.c.call(procPoolRefresh, refresh); err != nil {
		return err
	}
	m.r.costly(what+", the first", time.Since(began), cpuTime(m.t.pids())-before)
	var times []time.Duration
	for range m.plan.repeat {
		began := time.Now()
		if _, err := m.c.call(procPoolRefresh, refresh); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	m.r.time(what+", again", median(times))
	if kind != "sparse" {
		return m.end(pool, dir)
	}
	list := func(c *conn, _, _ int) error { return listVolumes(c, pool, n) }
	l, err := drive(ctx, m.t, 1, 0, m.plan.window, list)
	if err != nil {
		return err
	}
	m.r.answer(fmt.Sprintf("list %d volumes", n), l)
	if err := m.readers(ctx, refresh, list); err != nil {
		return err
	}
	return m.end(pool, dir)
}

// listVolumes lists the volumes of a pool, of which there must be n.
func listVolumes(c *conn, pool []byte, n int) error {
	reply, err := c.call(procListVolumes, wire.Uint32(wire.Uint32(append([]byte(nil), pool...), 1), 0))
	if err != nil {
		return err
	}
	if len(reply) < 4 || int(binary.BigEndian.Uint32(reply)) != n {
		return fmt.Errorf("list volumes: %d bytes of an answer, %d volumes are there", len(reply), n)
	}
	return nil
}

// readers measures how long the slowest list takes while the pool is refreshed.
func (m *poolMeter) readers(ctx context.Context, refresh []byte, list caller) error {
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := dial(m.t.socket(), m.t.uri())
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		for err == nil {
			select {
			case <-stop:
				done <- nil
				return
			default:
				_, err = c.call(procPoolRefresh, refresh)
			}
		}
		done <- err
	}()
	l, err := drive(ctx, m.t, 1, 0, m.plan.window, list)
	close(stop)
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	m.r.time(fmt.Sprintf("list %d volumes while they are refreshed, 99 of 100", m.plan.large), l.percentile(0.99))
	return nil
}

// forgotten is how long ext4 keeps from using inodes again that were deleted. Until then each new file costs it a look at all of them.
const forgotten = 6 * time.Second

// volumes measures making and deleting volumes in an empty pool.
func (m *poolMeter) volumes(ctx context.Context) error {
	select {
	case <-time.After(forgotten):
	case <-ctx.Done():
		return ctx.Err()
	}
	pool, dir, err := m.pool("volumes")
	if err != nil {
		return err
	}
	for _, format := range []string{"raw", "qcow2"} {
		var made [][]byte
		create := func(c *conn, _, n int) error {
			xml := fmt.Sprintf("<volume><name>%s-%d</name><capacity>1048576</capacity><allocation>0</allocation><target><format type='%s'/></target></volume>",
				format, n, format)
			reply, err := c.call(procVolCreateXML, wire.Uint32(wire.String(append([]byte(nil), pool...), xml), 0))
			made = append(made, append([]byte(nil), reply...))
			return err
		}
		l, err := drive(ctx, m.t, 1, 0, m.plan.window, create)
		if err != nil {
			return err
		}
		m.r.answer(fmt.Sprintf("create a %s volume", format), l)
		l, err = drive(ctx, m.t, 1, len(made), time.Minute, func(c *conn, _, n int) error {
			_, err := c.call(procVolDelete, wire.Uint32(append([]byte(nil), made[n]...), 0))
			return err
		})
		if err != nil {
			return err
		}
		if format == "raw" {
			m.r.answer("delete it", l)
		}
	}
	return m.end(pool, dir)
}

// content measures what goes into a volume and comes out of it, by virsh.
func (m *poolMeter) content(ctx context.Context) error {
	if _, err := exec.LookPath("virsh"); err != nil {
		m.r.none("upload", "virsh is not installed")
		return nil
	}
	pool, dir, err := m.pool("content")
	if err != nil {
		return err
	}
	file := filepath.Join(m.dir, "file")
	size := m.plan.content
	if err := writeNoise(file, size); err != nil {
		return err
	}
	uri := "qemu+unix:///system?socket=" + m.t.socket()
	if _, err := rig.Run(ctx, "virsh", "-q", "-c", uri, "vol-create-as", "bench-content", "v", fmt.Sprint(size), "--allocation", "0"); err != nil {
		return err
	}
	for _, what := range []string{"upload", "download"} {
		var times []time.Duration
		for range m.plan.repeat {
			target := file
			if what == "download" {
				target = "/dev/null"
			}
			began := time.Now()
			if _, err := rig.Run(ctx, "virsh", "-q", "-c", uri, "vol-"+what, "v", target, "--pool", "bench-content"); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		rate := float64(size) / (1 << 20) / median(times).Seconds()
		m.r.add(figure{what: fmt.Sprintf("%s of %d MiB by virsh", what, size>>20), text: fmt.Sprintf("%.0f MiB/s", rate), value: rate, more: true})
	}
	return errors.Join(os.Remove(file), m.end(pool, dir))
}

// makeSparse makes volumes that nobody has ever read or written.
func makeSparse(dir string, n int) error {
	for i := range n {
		if err := makeFile(dir, i, nil, sparseSize); err != nil {
			return err
		}
	}
	return nil
}

// qcow2Header is that of an image of 1 MiB with version 3 and no features.
// https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
func qcow2Header() []byte {
	h := make([]byte, 512)
	put := func(at int, words ...uint32) {
		for i, w := range words {
			binary.BigEndian.PutUint32(h[at+4*i:], w)
		}
	}
	put(0, 0x514649fb, 3)                      // magic, version
	put(20, 16, 0, sparseSize, 0, 1, 0, 3<<16) // cluster bits, size, encryption, entries and place of L1
	put(48, 0, 1<<16, 1)                       // place and length of the reference counts
	put(96, 4, 112)                            // reference counts of 16 bits, length of the header
	return h
}

// makeQcow2 makes volumes whose headers are on the disk and not in memory.
func makeQcow2(dir string, n int) error {
	header := qcow2Header()
	for i := range n {
		if err := makeFile(dir, i, header, 256<<10); err != nil {
			return err
		}
	}
	unix.Sync()
	for i := range n {
		f, err := os.Open(volumeFile(dir, i))
		if err != nil {
			return err
		}
		err = errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func volumeFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("v%05d", i)) }

func makeFile(dir string, i int, content []byte, size int64) error {
	f, err := os.Create(volumeFile(dir, i))
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Truncate(size), f.Close())
}

// writeNoise makes a file without holes.
func writeNoise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i*7 + i>>8 + 1)
	}
	for at := int64(0); at < size && err == nil; at += int64(len(block)) {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Sync(), f.Close())
}
