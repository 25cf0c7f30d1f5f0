package secret

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// bench is a store on a disk of its own.
type bench struct {
	*Store
	*testing.T
	dir string
	cat *catalog.Catalog
	bus *event.Bus
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir(), bus: event.NewBus(0)}
	b.up(KeySource{File: filepath.Join(b.dir, "key")})
	t.Cleanup(func() { _ = b.cat.Close() })
	return b
}

func (b *bench) up(key KeySource) {
	b.Helper()
	var err error
	if b.cat, err = catalog.Open(filepath.Join(b.dir, "catalog.db")); err != nil {
		b.Fatal(err)
	}
	if b.Store, err = Open(b.cat, b.bus, key); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) define(xml string) Secret {
	b.Helper()
	s, err := b.Define(xml)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func ceph(name, more string) string {
	return fmt.Sprintf("<secret %s><usage type='ceph'><name>%s</name></usage></secret>", more, name)
}

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}

func TestValueIsKeptAndSealed(t *testing.T) {
	b := newBench(t)
	s := b.define(ceph("pool", ""))
	gone := b.define(ceph("fleeting", "ephemeral='yes'"))
	value := []byte("a value that nobody shall find on the disk")
	for _, one := range []Secret{s, gone} {
		if _, err := b.Value(one.UUID); code(err) != verr.NoSecret {
			t.Errorf("value of a secret without one: %v", err)
		}
		if err := b.SetValue(one.UUID, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.cat.Close(); err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(filepath.Join(b.dir, "catalog.db"))
	if err != nil || bytes.Contains(disk, value[:10]) || bytes.Contains(disk, []byte("fleeting")) {
		t.Errorf("the disk has the value or the ephemeral secret, error %v", err)
	}
	if info, err := os.Stat(filepath.Join(b.dir, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key is %v, error %v", info, err)
	}
	b.up(KeySource{File: filepath.Join(b.dir, "key")})
	if got, err := b.Value(s.UUID); err != nil || !bytes.Equal(got, value) {
		t.Errorf("value is %q, error %v", got, err)
	}
	if len(b.All()) != 1 {
		t.Errorf("secrets are %v", b.All())
	}
}

func TestAnotherKeyIsNoticed(t *testing.T) {
	b := newBench(t)
	s := b.define(ceph("pool", ""))
	if err := b.SetValue(s.UUID, []byte("value")); err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, credentialName), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.cat, b.bus, KeySource{Credentials: credentials, File: filepath.Join(b.dir, "key")}); !errors.Is(err, ErrKey) {
		t.Errorf("opened with another key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "short"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.cat, b.bus, KeySource{File: filepath.Join(b.dir, "short")}); err == nil {
		t.Error("opened with a key of one byte")
	}
}

func TestSealedValueIsOfOneSecret(t *testing.T) {
	s, err := KeySource{File: filepath.Join(t.TempDir(), "key")}.open()
	if err != nil {
		t.Fatal(err)
	}
	one, other := uuid.New(), uuid.New()
	sealed := s.seal(one, nil)
	if got, err := s.unseal(one, sealed); err != nil || got == nil || len(got) != 0 {
		t.Errorf("empty value is %v, error %v", got, err)
	}
	for name, bad := range map[string][]byte{"cut": sealed[:10], "of another": sealed, "damaged": append([]byte{^sealed[0]}, sealed[1:]...)} {
		id := one
		if name == "of another" {
			id = other
		}
		if _, err := s.unseal(id, bad); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateValueGoesToDriversAlone(t *testing.T) {
	b := newBench(t)
	s := b.define(ceph("pool", "private='yes'"))
	if err := b.SetValue(s.UUID, []byte("value")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Value(s.UUID); code(err) != verr.InvalidSecret {
		t.Errorf("value for a client: %v", err)
	}
	for _, ref := range []catalog.SecretRef{{UUID: s.UUID.String()}, {Usage: "pool", Type: "ceph"}} {
		got, err := b.Values(t.Context(), []catalog.SecretRef{ref})
		if err != nil || len(got) != 1 || string(got[0].Value) != "value" {
			t.Errorf("value for a driver by %v: %v, error %v", ref, got, err)
		}
	}
	for _, ref := range []catalog.SecretRef{{UUID: uuid.NewString()}, {Usage: "pool", Type: "iscsi"}, {Usage: "pool"}} {
		if _, err := b.Values(t.Context(), []catalog.SecretRef{ref}); code(err) != verr.NoSecret {
			t.Errorf("value by %v: %v", ref, err)
		}
	}
	if _, err := b.Values(t.Context(), []catalog.SecretRef{{UUID: s.UUID.String(), Type: "iscsi"}}); code(err) != verr.ConfigUnsupported {
		t.Errorf("value for another use: %v", err)
	}
}

func TestDefinitions(t *testing.T) {
	b := newBench(t)
	s := b.define("<secret><description>a &lt; b</description><usage type='volume'><volume>/a</volume></usage></secret>")
	want := "<secret ephemeral='no' private='no'>\n  <uuid>" + s.UUID.String() + "</uuid>\n  <description>a &lt; b</description>\n" +
		"  <usage type='volume'>\n    <volume>/a</volume>\n  </usage>\n</secret>\n"
	if s.XML() != want {
		t.Errorf("description\n%s\nwant\n%s", s.XML(), want)
	}
	if again := b.define(s.XML()); again.Definition != s.Definition {
		t.Errorf("defined again as %+v", again)
	}
	other := uuid.NewString()
	private := b.define(ceph("p", "private='yes'"))
	for name, c := range map[string]struct {
		xml  string
		want verr.Code
	}{
		"a usage that another has":    {strings.Replace(s.XML(), s.UUID.String(), other, 1), verr.Internal},
		"another usage":               {strings.Replace(s.XML(), "/a", "/b", 1), verr.Internal},
		"what was private":            {strings.Replace(private.XML(), "private='yes'", "private='no'", 1), verr.Internal},
		"an unknown usage":            {"<secret><usage type='coffee'/></secret>", verr.XMLError},
		"a usage without a name":      {"<secret><usage type='ceph'/></secret>", verr.XMLError},
		"a relative path":             {"<secret><usage type='volume'><volume>a</volume></usage></secret>", verr.XMLError},
		"a uuid that is none":         {"<secret><uuid>x</uuid></secret>", verr.XMLError},
		"neither yes nor no":          {"<secret private='maybe'/>", verr.XMLError},
		"another root":                {"<pool/>", verr.XMLError},
		"what is no XML":              {"<secret>", verr.XMLError},
		"an entity":                   {"<!DOCTYPE secret [<!ENTITY a 'b'>]><secret>&a;</secret>", verr.XMLError},
		"more than there is room for": {"<secret>" + strings.Repeat(" ", maxXML) + "</secret>", verr.XMLError},
	} {
		if _, err := b.Define(c.xml); code(err) != c.want {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
	if err := b.SetValue(s.UUID, make([]byte, MaxValue+1)); code(err) != verr.InvalidArg {
		t.Errorf("a value that is too big: %v", err)
	}
	if _, err := b.ByUsage(UsageVolume, "/a"); err != nil {
		t.Error(err)
	}
	if _, err := b.ByUsage(UsageNone, ""); code(err) != verr.NoSecret {
		t.Errorf("a secret for nothing: %v", err)
	}
}

// TestCorpus defines each of libvirt's secrets, and compares with how libvirt prints it.
func TestCorpus(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "shared", "corpora", "libvirt-9.0.0", "secretxml2xmlin", "*.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	b := newBench(t)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.Define(string(text))
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
			continue
		}
		if got := s.XML(); got != string(text) {
			t.Errorf("%s: printed as\n%s\nwant\n%s", filepath.Base(name), got, text)
		}
	}
}

func TestEventsOfSecrets(t *testing.T) {
	b := newBench(t)
	sub := b.bus.Subscribe()
	defer sub.Close()
	s := b.define(ceph("pool", ""))
	if err := b.SetValue(s.UUID, []byte("v")); err != nil {
		t.Fatal(err)
	}
	if err := b.Undefine(s.UUID); err != nil {
		t.Fatal(err)
	}
	if err := b.Undefine(s.UUID); code(err) != verr.NoSecret {
		t.Errorf("undefined twice: %v", err)
	}
	for _, want := range []event.Secret{{UsageType: 2}, {Changed: true, UsageType: 2}, {Lifecycle: 1, UsageType: 2}} {
		if e := <-sub.C(); *e.Secret != want || e.Name != "pool" || e.UUID != s.UUID {
			t.Errorf("event %+v of %s, want %+v", e.Secret, e.Name, want)
		}
	}
}

func FuzzDefinition(f *testing.F) {
	f.Add(ceph("a", "private='yes'"))
	f.Add("<secret><usage type='volume'><volume>/a</volume></usage></secret>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parse(text)
		if err != nil {
			return
		}
		d.UUID = uuid.New()
		again, err := parse(d.XML())
		if err != nil {
			t.Fatalf("%q prints as %q: %v", text, d.XML(), err)
		}
		if again != d {
			t.Errorf("%+v came back as %+v", d, again)
		}
	})
}
