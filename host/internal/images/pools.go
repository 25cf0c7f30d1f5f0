// Package images shows folders of this machine as libvirt's storage pools, so that clients can look up the disk images that guests
// shall use. It only looks: nothing is created, changed or deleted, and nothing is kept on disk.
//
// A folder is a pool (active, transient, of type "dir") once a disk of a defined domain lies in it, or once a client that may change
// the host has asked for a path in it; clients that may only read do not add pools, so they cannot search the machine. Pools owns
// that list, in memory; a pool's UUID follows from its path, so it is the same after a restart. Volumes are a folder's files and
// block devices, as they are at the moment of the question.
//
// Folders may be on file systems that hang. Every look runs on a goroutine of its own, at most looksPerPool at a time in one folder and
// looksAtAll together; a caller waits lookTimeout and then gets OperationTimeout, while the goroutine ends when the kernel lets it.
// What is in an image was written by a guest: of its header only sizes and names are read, and nothing that it names is opened.
//
// All methods are safe concurrently. Errors are libvirt's, of its storage domain.
package images

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of the package.
const (
	// maxPools is how many folders are shown; the one that was not used for the longest time makes room for another.
	maxPools = 4096
	// maxEntries is how many entries of a folder are read.
	maxEntries = 65536
	// maxPath is the longest path in bytes, PATH_MAX.
	maxPath = 4096
	// looksPerPool and looksAtAll bound the threads that a file system which hangs can hold.
	looksPerPool = 2
	looksAtAll   = 256
	// lookTimeout is how long a caller waits for a file system.
	lookTimeout = 10 * time.Second
)

// systemFolders have devices and the kernel's own files; what is below them is no image of a pool.
var systemFolders = []string{"/dev", "/proc", "/sys"}

// Pools are the folders that are shown.
type Pools struct {
	// disks returns the folders that hold disks of defined domains.
	disks   func() []string
	looks   *semaphore.Weighted
	newPath *semaphore.Weighted // for folders that are not pools yet

	mu     sync.Mutex // guards the fields below; never held while a file system is asked
	clock  uint64
	byPath map[string]*Pool
	byName map[string]*Pool
}

// New returns the pools of a machine; disks returns the folders that hold disks of defined domains.
func New(disks func() []string) *Pools {
	return &Pools{
		disks: disks, looks: semaphore.NewWeighted(looksAtAll), newPath: semaphore.NewWeighted(looksPerPool),
		byPath: map[string]*Pool{}, byName: map[string]*Pool{},
	}
}

// All returns the pools by path.
func (p *Pools) All() []*Pool {
	folders := slices.Compact(slices.Sorted(slices.Values(p.disks())))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, folder := range folders {
		if allowed(folder) {
			p.add(folder)
		}
	}
	all := make([]*Pool, 0, len(p.byPath))
	for _, pool := range p.byPath {
		all = append(all, pool)
	}
	slices.SortFunc(all, func(a, b *Pool) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// ByName finds a pool, or fails with NoStoragePool.
func (p *Pools) ByName(name string) (*Pool, error) {
	return p.find(func(pool *Pool) bool { return pool.Name == name }, "name", name)
}

// ByUUID finds a pool, or fails with NoStoragePool.
func (p *Pools) ByUUID(id uuid.UUID) (*Pool, error) {
	return p.find(func(pool *Pool) bool { return pool.UUID == id }, "uuid", id.String())
}

// ByPath finds the pool that is a folder, or fails with NoStoragePool.
func (p *Pools) ByPath(path string) (*Pool, error) {
	clean := filepath.Clean(path)
	return p.find(func(pool *Pool) bool { return pool.Path == clean }, "target path", path)
}

// find looks among the pools that are known, and only then where the disks of domains lie by now.
func (p *Pools) find(match func(*Pool) bool, what, value string) (*Pool, error) {
	if pool := p.known(match); pool != nil {
		return pool, nil
	}
	if all := p.All(); slices.ContainsFunc(all, match) {
		return all[slices.IndexFunc(all, match)], nil
	}
	return nil, storageError(verr.NoStoragePool, "no storage pool with matching %s '%s'", what, value)
}

// known finds a pool and notes that it is used; nil says that there is none.
func (p *Pools) known(match func(*Pool) bool) *Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range p.byPath {
		if match(pool) {
			p.clock++
			pool.used = p.clock
			return pool
		}
	}
	return nil
}

// Lookup finds the volume at a path, or fails with NoStorageVol. With add, its folder is a pool from now on.
func (p *Pools) Lookup(ctx context.Context, path string, add bool) (*Volume, error) {
	missing := storageError(verr.NoStorageVol, "no storage vol with matching path '%s'", path)
	clean := filepath.Clean(path)
	folder, name := filepath.Split(clean)
	folder = filepath.Clean(folder)
	if !filepath.IsAbs(path) || !printable(name) || !allowed(folder) {
		return nil, missing
	}
	pool, err := p.ByPath(folder)
	if err == nil {
		return pool.named(ctx, name, missing)
	}
	if !add {
		return nil, missing
	}
	v, err := look(ctx, p.looks, p.newPath, folder, func() (*Volume, error) { return inspect(clean) })
	if err != nil {
		return nil, notVolume(err, missing)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v.Pool = p.add(folder)
	return v, nil
}

// add returns the pool that is a folder, which may be a new one. The caller holds mu.
func (p *Pools) add(folder string) *Pool {
	p.clock++
	if pool := p.byPath[folder]; pool != nil {
		pool.used = p.clock
		return pool
	}
	if len(p.byPath) >= maxPools {
		p.dropOldest()
	}
	pool := &Pool{
		UUID: uuid.NewSHA1(uuid.NameSpaceURL, []byte("file://"+folder)), Path: folder,
		all: p.looks, own: semaphore.NewWeighted(looksPerPool), used: p.clock,
	}
	pool.Name = p.freeName(pool)
	p.byPath[folder], p.byName[pool.Name] = pool, pool
	return pool
}

// dropOldest forgets the pool that was not used for the longest time. The caller holds mu.
func (p *Pools) dropOldest() {
	var oldest *Pool
	for _, pool := range p.byPath {
		if oldest == nil || pool.used < oldest.used {
			oldest = pool
		}
	}
	delete(p.byPath, oldest.Path)
	delete(p.byName, oldest.Name)
}

// freeName names a pool after its folder, and after its path too if another one has that name. The caller holds mu.
func (p *Pools) freeName(pool *Pool) string {
	name := filepath.Base(pool.Path)
	if name == "/" {
		name = "root"
	}
	if p.byName[name] != nil {
		name += "-" + pool.UUID.String()
	}
	return name
}

// allowed reports whether a folder may be a pool.
func allowed(folder string) bool {
	if !filepath.IsAbs(folder) || filepath.Clean(folder) != folder || len(folder) > maxPath || !printable(filepath.Base(folder)) {
		return false
	}
	return !slices.ContainsFunc(systemFolders, func(system string) bool {
		return folder == system || strings.HasPrefix(folder, system+"/")
	})
}

// printable reports whether a name can be told in XML and in a table.
func printable(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || r == '\uFFFE' || r == '\uFFFF' })
}

// look asks a file system on a goroutine of its own. When it takes too long the caller is told so; the goroutine keeps its place
// among those that are counted until the kernel answers.
func look[T any](ctx context.Context, all, own *semaphore.Weighted, folder string, ask func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var none T
	for _, s := range []*semaphore.Weighted{own, all} {
		if err := s.Acquire(ctx, 1); err != nil {
			if s == all {
				own.Release(1)
			}
			return none, timedOut(folder, err)
		}
	}
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer all.Release(1)
		defer own.Release(1)
		value, err := ask()
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		return none, timedOut(folder, ctx.Err())
	}
}

func timedOut(folder string, err error) error {
	return storageError(verr.OperationTimeout, "folder '%s' does not answer: %w", folder, err)
}

func storageError(code verr.Code, format string, args ...any) error {
	return verr.New(code, format, args...).In(verr.FromStorage)
}

// notVolume is missing for a path that is no volume, and any other error as it is.
func notVolume(err, missing error) error {
	if errors.Is(err, errNoVolume) {
		return missing
	}
	return err
}
