package probe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

const (
	// cacheFormat changes when what is asked or how it is kept changes.
	cacheFormat = "2"
	keyPrefix   = "probe/"
	// probeTimeout bounds questioning one binary; a healthy one takes a tenth of a second.
	probeTimeout = 15 * time.Second
)

// Store keeps answers on disk; a driver's plugin.State is one.
type Store interface {
	// Get returns the value of a key, or ok false.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Put stores a value under a key of at most 256 bytes.
	Put(ctx context.Context, key string, value []byte) error
}

// Options are what a Prober needs; each has a default.
type Options struct {
	// Store keeps answers over restarts; nil keeps them in memory only.
	Store Store
	// Log gets warnings; nil drops them.
	Log hclog.Logger
	// Dirs are searched for emulators; empty means DefaultDirs.
	Dirs []string
	// KVMDevice is the device to try, "" for /dev/kvm.
	KVMDevice string
}

// DefaultDirs is where distributions put their emulators.
var DefaultDirs = []string{"/usr/bin", "/usr/local/bin", "/usr/libexec"}

// Prober finds and questions QEMU binaries. Make one with New.
type Prober struct {
	opts   Options
	kernel string
	flight singleflight.Group

	// mu guards known; nothing waits while it is held.
	mu    sync.Mutex
	known map[string]entry
}

// entry is what is remembered of a binary.
type entry struct {
	Identity string  `json:"identity"`
	Binary   *Binary `json:"binary"`
}

// New makes a Prober. It asks nobody anything yet.
func New(opts Options) *Prober {
	if opts.Log == nil {
		opts.Log = hclog.NewNullLogger()
	}
	if len(opts.Dirs) == 0 {
		opts.Dirs = DefaultDirs
	}
	if opts.KVMDevice == "" {
		opts.KVMDevice = "/dev/kvm"
	}
	return &Prober{opts: opts, kernel: kernelVersion(), known: map[string]entry{}}
}

// Binary tells what the emulator at an absolute path can do. Errors name the path; a missing file wraps fs.ErrNotExist.
func (p *Prober) Binary(ctx context.Context, path string) (*Binary, error) {
	id, err := p.identity(path)
	if err != nil {
		return nil, fmt.Errorf("probe emulator %q: %w", path, err)
	}
	if b := p.recall(path, id); b != nil {
		return b, nil
	}
	found := p.flight.DoChan(path+"\x00"+id, func() (any, error) {
		// The first caller's leaving must not spoil the answer for the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		return p.learn(ctx, path, id)
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Binary), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("probe emulator %q: %w", path, ctx.Err())
	}
}

// learn takes the answer from the store, or asks the binary and stores it.
func (p *Prober) learn(ctx context.Context, path, id string) (*Binary, error) {
	if b := p.load(ctx, path, id); b != nil {
		p.remember(path, id, b)
		return b, nil
	}
	kvm := checkKVM(p.opts.KVMDevice)
	if !kvm.Usable {
		p.opts.Log.Info("kvm cannot be used", "reason", kvm.Reason)
	}
	began := time.Now()
	b, err := question(ctx, path, kvm)
	if err != nil {
		return nil, err
	}
	p.opts.Log.Info("probed emulator", "path", path, "version", b.Version, "kvm", b.KVM, "took", time.Since(began))
	p.remember(path, id, b)
	p.save(ctx, path, id, b)
	return b, nil
}

// OfArch finds the emulator for an architecture by libvirt's name, and tells what it can do. It looks for no others. Where there is
// none the error wraps fs.ErrNotExist.
func (p *Prober) OfArch(ctx context.Context, arch string) (*Binary, error) {
	path := findArch(p.opts.Dirs, runtime.GOARCH, arch)
	if path == "" {
		return nil, fmt.Errorf("find emulator for architecture %q: %w", arch, fs.ErrNotExist)
	}
	b, err := p.Binary(ctx, path)
	if err == nil && b.Arch != arch {
		return nil, fmt.Errorf("emulator %q is for architecture %q, not %q", path, b.Arch, arch)
	}
	return b, err
}

// All finds and questions every emulator in the directories, those that can run the host's own architecture first. A broken
// one is left out and reported in the error, which may come together with binaries.
func (p *Prober) All(ctx context.Context) ([]*Binary, error) {
	paths := find(p.opts.Dirs, runtime.GOARCH)
	type result struct {
		binary *Binary
		err    error
	}
	results := make([]result, len(paths))
	slots := make(chan struct{}, max(2, runtime.NumCPU()/2))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i].binary, results[i].err = p.Binary(ctx, path)
		})
	}
	wg.Wait()
	var binaries []*Binary
	var errs []error
	for _, r := range results {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		binaries = append(binaries, r.binary)
	}
	return binaries, errors.Join(errs...)
}

// identity changes whenever an answer may.
func (p *Prober) identity(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", errors.New("path is not absolute")
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return "", errors.New("not an executable file")
	}
	kvm := unix.Access(p.opts.KVMDevice, unix.R_OK|unix.W_OK) == nil
	return fmt.Sprintf("%s %d:%d %d %d.%d %d.%d kvm=%t kernel=%s", cacheFormat, st.Dev, st.Ino, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, kvm, p.kernel), nil
}

func (p *Prober) recall(path, id string) *Binary {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.known[path]; e.Identity == id {
		return e.Binary
	}
	return nil
}

func (p *Prober) remember(path, id string, b *Binary) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[path] = entry{Identity: id, Binary: b}
}

func storeKey(path string) string {
	sum := sha256.Sum256([]byte(path))
	return keyPrefix + hex.EncodeToString(sum[:])
}

// load takes an answer from the store. Whatever is wrong with it, asking again mends it.
func (p *Prober) load(ctx context.Context, path, id string) *Binary {
	if p.opts.Store == nil {
		return nil
	}
	data, ok, err := p.opts.Store.Get(ctx, storeKey(path))
	if err != nil {
		p.opts.Log.Warn("cannot read the remembered answers of an emulator", "path", path, "error", err)
		return nil
	}
	if !ok {
		return nil
	}
	return parseEntry(data, path, id)
}

// parseEntry reads a stored answer, or returns nil where it is not the wanted one.
func parseEntry(data []byte, path, id string) *Binary {
	var e entry
	if json.Unmarshal(data, &e) != nil || e.Identity != id || e.Binary == nil || e.Binary.Path != path {
		return nil
	}
	return e.Binary
}

func (p *Prober) save(ctx context.Context, path, id string, b *Binary) {
	if p.opts.Store == nil {
		return
	}
	data, err := json.Marshal(entry{Identity: id, Binary: b})
	if err == nil {
		err = p.opts.Store.Put(ctx, storeKey(path), data)
	}
	if err != nil {
		p.opts.Log.Warn("cannot store the answers of an emulator", "path", path, "error", err)
	}
}

// kernelVersion is part of what an answer depends on: a kernel decides what KVM offers.
func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:])
}
