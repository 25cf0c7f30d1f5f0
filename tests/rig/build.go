package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// buildTime bounds a build.
const buildTime = 10 * time.Minute

// Binaries are the daemons and plugins that tests run: those in $LODGE_BIN, or else built once into a temporary folder.
type Binaries struct {
	// Root is the top of the source tree.
	Root string

	once sync.Once
	dir  string
	err  error
}

// Dir returns their folder.
func (b *Binaries) Dir() (string, error) {
	if dir := os.Getenv("LODGE_BIN"); dir != "" {
		return dir, nil
	}
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "lodge-bin-"); b.err == nil {
			b.err = b.build()
		}
	})
	return b.dir, b.err
}

// Close removes what was built.
func (b *Binaries) Close() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir) // A temporary folder.
	}
}

// build builds the daemons and the plugins, and puts the manifests beside them.
func (b *Binaries) build() error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	plugins := filepath.Join(b.dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return fmt.Errorf("make folder of plugins: %w", err)
	}
	targets := map[string]string{}
	for _, name := range []string{"lodged", "lodge-lockd", "lodge"} {
		targets["host/cmd/"+name] = filepath.Join(b.dir, name)
	}
	targets["plugins/esx/vimsim"] = filepath.Join(b.dir, "vimsim") // for tests alone
	for _, folder := range []string{
		"qemu", "test", "esx", "storage/local", "storage/logical", "storage/disk", "storage/sheepdog", "storage/iscsi", "storage/rbd", "lock/sanlock", "lock/etcd",
	} {
		name := filepath.Base(folder)
		targets["plugins/"+folder] = filepath.Join(plugins, "lodge-plugin-"+name)
		manifest, err := os.ReadFile(filepath.Join(b.Root, "plugins", folder, name+".toml"))
		if err != nil {
			return fmt.Errorf("read manifest: %w", err)
		}
		if err := os.WriteFile(filepath.Join(plugins, name+".toml"), manifest, 0o644); err != nil {
			return fmt.Errorf("write manifest: %w", err)
		}
	}
	tags, err := b.tags(ctx)
	if err != nil {
		return err
	}
	for from, to := range targets {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", to, "./"+from)
		if tags != "" && slices.Contains(withC, from) {
			cmd = exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", to, "./"+from)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		}
		cmd.Dir = b.Root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", from, err, out)
		}
	}
	return nil
}

// withC are the plugins that use C libraries where they are found.
var withC = []string{"plugins/storage/iscsi", "plugins/storage/rbd"}

// tags are the build tags of the C libraries that are found.
func (b *Binaries) tags(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "scripts/tags")
	cmd.Dir = b.Root
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("look for C libraries: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
