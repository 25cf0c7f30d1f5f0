package probe

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryStore is a Store that counts.
type memoryStore struct {
	mu         sync.Mutex
	values     map[string][]byte
	gets, puts int
	broken     error
}

func (s *memoryStore) Get(_ context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	v, ok := s.values[key]
	return v, ok, s.broken
}

func (s *memoryStore) Put(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	s.values[key] = value
	return s.broken
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func realQEMU(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	return path
}

// script makes an executable that is no QEMU.
func script(t *testing.T, name, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRealQEMUTellsWhatItCanDo(t *testing.T) {
	path := realQEMU(t)
	b, err := New(Options{}).Binary(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	if b.Arch != "x86_64" || b.Version < 4_000_000 || b.Path != path {
		t.Errorf("arch %q, version %d, path %q", b.Arch, b.Version, b.Path)
	}
	q35, ok := b.Machine("q35")
	if !ok || !strings.HasPrefix(q35.Name, "pc-q35-") || q35.MaxCPUs < 255 {
		t.Errorf("q35 is %+v", q35)
	}
	if b.Aliases()["pc"] != b.DefaultMachine() {
		t.Errorf("default machine %q, aliases %v", b.DefaultMachine(), b.Aliases())
	}
	if _, ok := b.Machine("none"); ok {
		t.Error("the machine that runs no guest is listed")
	}
	for _, device := range []string{"virtio-blk-pci", "pcie-root-port", "usb-tablet", "memory-backend-file"} {
		if !b.HasType(device) {
			t.Errorf("device %q is missing", device)
		}
	}
	if b.HasType("no-such-device") || !b.HasOption("vnc", "websocket") || b.HasOption("vnc", "no-such") || !b.HasProperty("virtio-blk-pci", "iothread") {
		t.Error("types, options or properties are wrong")
	}
	cpus := b.CPUs["qemu"]
	epyc := slices.IndexFunc(cpus.Models, func(m CPUModel) bool { return m.Name == "EPYC" })
	if epyc < 0 || !slices.Contains(cpus.Models[epyc].Features, "sse4a") || !slices.Contains(cpus.Best, "sse2") {
		t.Errorf("EPYC at %d, best %v", epyc, cpus.Best)
	}
	for _, m := range cpus.Models {
		if m.Usable != (len(m.Blockers) == 0) || strings.HasSuffix(m.Name, "-v1") {
			t.Errorf("model %+v", m)
		}
	}
	if _, ok := b.CPUs["kvm"]; ok != b.KVM {
		t.Errorf("kvm %t, models for it %t", b.KVM, ok)
	}
}

func TestWithoutKVMOnlyTheEmulationIsOffered(t *testing.T) {
	b, err := New(Options{KVMDevice: "/nonexistent/kvm"}).Binary(within(t), realQEMU(t))
	if err != nil {
		t.Fatal(err)
	}
	if b.KVM || len(b.CPUs) != 1 || b.KVMMaxVCPUs != 0 || !slices.Equal(b.VirtTypes(), []string{"qemu"}) {
		t.Errorf("kvm %t, cpus for %d types, types %v", b.KVM, len(b.CPUs), b.VirtTypes())
	}
}

func TestAnswersAreRememberedByTheBinarysIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qemu-system-x86_64")
	if err := os.Symlink(realQEMU(t), path); err != nil {
		t.Fatal(err)
	}
	store := &memoryStore{}
	first := New(Options{Store: store})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := first.Binary(within(t), path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if store.puts != 1 {
		t.Errorf("five callers at once had the binary questioned %d times", store.puts)
	}
	b, err := New(Options{Store: store}).Binary(within(t), path)
	if err != nil || store.puts != 1 || b.DefaultMachine() == "" {
		t.Errorf("from the store: %v, %v, questioned %d times", b, err, store.puts)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Binary(within(t), path); err == nil {
		t.Error("answers of a replaced binary are still given")
	}
}

func TestStoresThatFailCostOnlyTime(t *testing.T) {
	store := &memoryStore{broken: errors.New("disk on fire")}
	if _, err := New(Options{Store: store}).Binary(within(t), realQEMU(t)); err != nil {
		t.Error(err)
	}
}

func TestStoredNonsenseIsIgnored(t *testing.T) {
	for name, data := range map[string]string{
		"garbage": "}", "nothing": `{}`, "another identity": `{"identity":"y","binary":{"path":"/q"}}`,
		"another path": `{"identity":"x","binary":{"path":"/other"}}`, "no binary": `{"identity":"x"}`,
	} {
		if parseEntry([]byte(data), "/q", "x") != nil {
			t.Errorf("%s was taken", name)
		}
	}
	if parseEntry([]byte(`{"identity":"x","binary":{"path":"/q"}}`), "/q", "x") == nil {
		t.Error("a good answer was not taken")
	}
}

func TestBrokenBinariesAreReportedByName(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"one that ends at once", `echo "no $0 today" >&2; exit 1`, "today"},
		{"one that speaks something else", `echo hello >&3; sleep 20`, "protocol"},
		{"one that greets and ends", `echo '{"QMP": {"version": {"qemu": {"major": 1}}}}' >&3`, "closed its monitor"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := script(t, "qemu-system-x86_64", tc.body)
			_, err := New(Options{}).Binary(within(t), path)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSilentBinaryHoldsUpNobodyBeyondTheirContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := interrogate(ctx, script(t, "qemu-system-x86_64", "exec sleep 60"), "tcg", nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoEmulatorIsRefused(t *testing.T) {
	p := New(Options{})
	if _, err := p.Binary(within(t), "/nonexistent/qemu"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for _, path := range []string{"qemu-system-x86_64", "/", "/etc/passwd"} {
		if _, err := p.Binary(within(t), path); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}

func TestAllSkipsTheBrokenOnesAndSaysSo(t *testing.T) {
	good := realQEMU(t)
	dir := t.TempDir()
	for name, target := range map[string]string{"qemu-system-x86_64": good, "qemu-system-arm": "/bin/false"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := New(Options{Dirs: []string{dir}}).All(within(t))
	if len(list) != 1 || list[0].Arch != "x86_64" {
		t.Errorf("found %d", len(list))
	}
	if err == nil || !strings.Contains(err.Error(), "qemu-system-arm") {
		t.Errorf("error %v", err)
	}
}

func TestOnlyTheEmulatorOfTheArchitectureIsAsked(t *testing.T) {
	good := realQEMU(t)
	dir := t.TempDir()
	for name, target := range map[string]string{"qemu-system-x86_64": good, "qemu-system-arm": "/bin/false", "qemu-system-ppc64": good} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := New(Options{Dirs: []string{dir}})
	if b, err := p.OfArch(within(t), "x86_64"); err != nil || b.Path != filepath.Join(dir, "qemu-system-x86_64") {
		t.Errorf("found %v, %v", b, err)
	}
	for _, arch := range []string{"s390x", "no-such"} {
		if _, err := p.OfArch(within(t), arch); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", arch, err)
		}
	}
	if _, err := p.OfArch(within(t), "ppc64"); err == nil || !strings.Contains(err.Error(), "x86_64") {
		t.Errorf("an emulator under another's name: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "qemu-system-x86_64")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.OfArch(within(t), "x86_64"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it was removed: %v", err)
	}
}

func TestFindPutsNativeEmulatorsFirst(t *testing.T) {
	early, late := t.TempDir(), t.TempDir()
	for _, path := range []string{
		early + "/qemu-system-arm", early + "/qemu-system-i386", early + "/qemu-system-x86_64-microvm", early + "/qemu-img",
		late + "/qemu-system-arm", late + "/qemu-system-x86_64", late + "/qemu-kvm",
	} {
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(early+"/qemu-system-ppc", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got := find([]string{early, late}, "amd64")
	want := []string{late + "/qemu-system-x86_64", early + "/qemu-system-i386", early + "/qemu-system-arm"}
	if !slices.Equal(got, want) {
		t.Errorf("found %v", got)
	}
	if got := find([]string{late}, "s390x"); !slices.Equal(got, []string{late + "/qemu-kvm", late + "/qemu-system-arm", late + "/qemu-system-x86_64"}) {
		t.Errorf("without a native emulator: %v", got)
	}
}

func TestCutVersionKnowsVersionsFromNames(t *testing.T) {
	for _, tc := range []struct {
		name, stem string
		ok         bool
	}{
		{"EPYC-v12", "EPYC", true}, {"EPYC", "EPYC", false}, {"x-vmx", "x-vmx", false}, {"x-v", "x-v", false},
	} {
		if stem, _, ok := cutVersion(tc.name); stem != tc.stem || ok != tc.ok {
			t.Errorf("%s: %s, %t", tc.name, stem, ok)
		}
	}
}
