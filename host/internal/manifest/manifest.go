// Package manifest reads what the core knows of a plugin before it ever runs: NAME.toml beside the binary, written by the plugin's
// author, and plugins.d/NAME.toml, written by the operator, who may switch the plugin off, pin its checksum and configure it.
//
// Reading never executes anything. Files are small, strictly decoded (an unknown key is an error with its file and line), and
// trusted only if nobody but root or the own user could have written them. All functions are safe concurrently; nothing is kept.
package manifest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Limits of what is read.
const (
	// MaxFile is the largest manifest or settings file, in bytes.
	MaxFile = 1 << 20
	// MaxPlugins is how many plugins one folder may have.
	MaxPlugins = 256
	maxList    = 64
	maxText    = 256
	maxDomain  = 72 // libvirt's last virErrorDomain
)

// Kind is what a plugin is.
type Kind string

// The kinds of plugin.
const (
	// KindHypervisor serves hypervisor.v1.
	KindHypervisor Kind = "hypervisor"
	// KindLock is a lock manager: it serves lock.v1.
	KindLock Kind = "lock"
	// KindStorage serves storage.v1.
	KindStorage Kind = "storage"
)

var kinds = []Kind{KindHypervisor, KindLock, KindStorage}

// Inventory says who keeps definitions.
type Inventory string

// The two kinds of inventory.
const (
	// InventoryCore: the core keeps them, the driver runs them.
	InventoryCore Inventory = "core"
	// InventoryDriver: the hypervisor keeps them, the core mirrors them.
	InventoryDriver Inventory = "driver"
)

// Disks says what the paths of guests' disks are.
type Disks string

// The two kinds of disks.
const (
	// DisksLocal are files and devices of this machine: a guest's lock is on the image itself.
	DisksLocal Disks = "local"
	// DisksElsewhere are pretended or another machine's: a guest's lock is on a file named after the path.
	DisksElsewhere Disks = "elsewhere"
)

// ErrUntrusted says that others than root and the own user may change a file.
var ErrUntrusted = errors.New("others may change it")

// Duration is a time.Duration, written "90s" or "10m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	if v < 0 {
		return fmt.Errorf("duration %q is negative", text)
	}
	*d = Duration(v)
	return nil
}

// Limits are a plugin's resource limits; 0 is the core's own.
type Limits struct {
	// OpenFiles is RLIMIT_NOFILE.
	OpenFiles uint64 `toml:"open_files"`
}

// Manifest is one NAME.toml.
type Manifest struct {
	// Name is the plugin's, and the file's.
	Name string `toml:"name"`
	// Version is a semantic version.
	Version string `toml:"version"`
	// Binary is the executable: a file name beside the manifest, or an absolute path. Absolute once read.
	Binary string `toml:"binary"`
	// Kind is what the plugin is.
	Kind Kind `toml:"kind"`
	// Protocol are the major versions of the contract that the binary speaks.
	Protocol []int `toml:"protocol"`
	// Schemes are the URI schemes that it serves, for example "qemu".
	Schemes []string `toml:"schemes"`
	// Connections are the paths below the schemes, for example "system".
	Connections []string `toml:"connections"`
	// Type is libvirt's name of the driver, for example "QEMU".
	Type string `toml:"type"`
	// Inventory says who keeps definitions; "core" if it is not given.
	Inventory Inventory `toml:"inventory"`
	// Disks says what the paths of its guests' disks are; "local" if it is not given.
	Disks Disks `toml:"disks"`
	// PoolTypes are the types of storage pools that it serves, for example "dir".
	PoolTypes []string `toml:"pool_types"`
	// Seeds: the connection has guests from its first use on, so the first client waits until they are there.
	Seeds bool `toml:"seeds"`
	// ErrorDomain is libvirt's virErrorDomain of its errors.
	ErrorDomain int32 `toml:"error_domain"`
	// SHA256 of the binary, hexadecimal; empty if the author did not state it.
	SHA256 string `toml:"sha256"`
	// IdleTimeout is after how long without a call and without a guest the process may end; 0 is never.
	IdleTimeout Duration `toml:"idle_timeout"`
	// Limits of the process.
	Limits Limits `toml:"limits"`
	// File is the path of the manifest.
	File string `toml:"-"`
}

var (
	validName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	validScheme = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,31}$`)
	validSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ReadDir reads all manifests in a folder, by name. Those that are wrong are left out, and the error, which then is not nil, tells of
// each. A folder that does not exist is empty.
func ReadDir(dir string) ([]*Manifest, error) {
	paths, err := filepath.Glob(filepath.Join(escape(dir), "*.toml"))
	if err != nil {
		return nil, fmt.Errorf("list manifests in %q: %w", dir, err)
	}
	var problems []error
	if len(paths) > MaxPlugins {
		problems = append(problems, fmt.Errorf("folder %q has %d manifests, only %d are read", dir, len(paths), MaxPlugins))
		paths = paths[:MaxPlugins]
	}
	var all []*Manifest
	for _, path := range paths {
		m, err := Read(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, m)
	}
	return all, errors.Join(problems...)
}

// escape keeps a folder's own name out of Glob's pattern.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// Read reads and checks one manifest. The binary need not exist yet.
func Read(path string) (*Manifest, error) {
	data, err := readTrusted(path)
	if err != nil {
		return nil, err
	}
	m, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	if want := strings.TrimSuffix(filepath.Base(path), ".toml"); m.Name != want {
		return nil, fmt.Errorf("%s: name is %q, the file's name says %q", path, m.Name, want)
	}
	return m, nil
}

func parse(path string, data []byte) (*Manifest, error) {
	m := &Manifest{Inventory: InventoryCore, Disks: DisksLocal, File: path}
	if err := decode(path, data, m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !filepath.IsAbs(m.Binary) {
		m.Binary = filepath.Join(filepath.Dir(path), m.Binary)
	}
	return m, nil
}

// rule is what must not be true of a manifest, and what to say if it is.
type rule struct {
	wrong bool
	say   string
}

// check refuses what the core could not work with.
func (m *Manifest) check() error {
	m.SHA256 = strings.ToLower(m.SHA256)
	rules := []rule{
		{!validName.MatchString(m.Name), "name must be of a-z, 0-9 and -, at most 32 bytes"},
		{m.Version == "" || len(m.Version) > maxText, "version is missing or too long"},
		{m.Binary == "" || len(m.Binary) > 4096, "binary is missing or too long"},
		{!filepath.IsAbs(m.Binary) && m.Binary != filepath.Base(m.Binary), "binary must be a file name or an absolute path"},
		{!slices.Contains(kinds, m.Kind), fmt.Sprintf("kind must be one of %q", kinds)},
		{len(m.Protocol) == 0 || len(m.Protocol) > maxList, "protocol must name the versions of the contract, for example [1]"},
		{slices.ContainsFunc(m.Protocol, func(v int) bool { return v < 1 }), "protocol has a version below 1"},
		{m.SHA256 != "" && !validSHA256.MatchString(m.SHA256), "sha256 must be 64 hexadecimal digits"},
	}
	switch m.Kind {
	case KindHypervisor:
		rules = append(rules, m.hypervisorRules()...)
	case KindStorage:
		rules = append(rules, rule{
			len(m.PoolTypes) == 0 || len(m.PoolTypes) > maxList || slices.ContainsFunc(m.PoolTypes, func(t string) bool { return !validName.MatchString(t) }),
			`pool_types must name types of pools, for example ["dir"]`,
		})
	case KindLock:
	}
	for _, r := range rules {
		if r.wrong {
			return errors.New(r.say)
		}
	}
	return nil
}

// hypervisorRules are those about the keys that only a hypervisor's driver has.
func (m *Manifest) hypervisorRules() []rule {
	return []rule{
		{len(m.Schemes) == 0 || len(m.Schemes) > maxList, `schemes must name URI schemes, for example ["qemu"]`},
		{slices.ContainsFunc(m.Schemes, func(s string) bool { return !validScheme.MatchString(s) }), "schemes has a wrong name"},
		{len(m.Connections) > maxList, "connections are too many"},
		{
			slices.ContainsFunc(m.Connections, func(s string) bool { return s == "" || len(s) > maxText || strings.Contains(s, "/") }),
			"connections has a wrong name",
		},
		{m.Type == "" || len(m.Type) > maxText, `type is missing or too long, it is libvirt's name, for example "QEMU"`},
		{m.Inventory != InventoryCore && m.Inventory != InventoryDriver, `inventory must be "core" or "driver"`},
		{
			m.Inventory == InventoryDriver && (len(m.Connections) > 0 || m.Seeds || m.Disks != DisksElsewhere),
			`a driver whose hypervisor keeps the inventory has disks = "elsewhere", no connections and no seeds`,
		},
		{m.Disks != DisksLocal && m.Disks != DisksElsewhere, `disks must be "local" or "elsewhere"`},
		{m.ErrorDomain < 1 || m.ErrorDomain > maxDomain, "error_domain must be one of libvirt's, 1 to 72"},
	}
}

// decode reads TOML strictly; its errors name file, line and key.
func decode(path string, data []byte, into any) error {
	d := toml.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		return nil
	}
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		row, _ := first.Position()
		return fmt.Errorf("%s:%d: unknown key %q", path, row, strings.Join(first.Key(), "."))
	}
	var one *toml.DecodeError
	if errors.As(err, &one) {
		row, _ := one.Position()
		return fmt.Errorf("%s:%d: %w", path, row, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// readTrusted reads a small regular file that nobody but root and the own user may write.
func readTrusted(path string) ([]byte, error) {
	f, err := openTrusted(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("read %q: larger than %d bytes", path, MaxFile)
	}
	return data, nil
}

// openTrusted opens a regular file and checks what it opened, not what the path may name a moment later.
func openTrusted(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := checkTrusted(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	return f, nil
}

func checkTrusted(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner")
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("owned by user %d: %w", st.Uid, ErrUntrusted)
	}
	if os.Geteuid() == 0 && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("mode %04o: %w", info.Mode().Perm(), ErrUntrusted)
	}
	return nil
}
