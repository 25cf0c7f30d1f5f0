package cmdline_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// corpus finds libvirt's test data beside the repository.
func corpus(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LODGE_LIBVIRT_CORPUS")
	if dir == "" {
		dir = "../../../../../shared/corpora/libvirt-9.0.0"
	}
	dir = filepath.Join(dir, "qemuxml2argvdata")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("libvirt's test data is not here; LODGE_LIBVIRT_CORPUS names its folder")
	}
	return dir
}

// floor reads a committed list of names that must go on passing.
func floor(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

var machineAttr = regexp.MustCompile(`machine=['"]([^'"]*)['"]`)

// corpusBuild builds one file of the corpus for a QEMU that has every machine type and device.
func corpusBuild(text string) (*cmdline.Command, error) {
	d, err := domxml.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := domxml.Complete(d); err != nil {
		return nil, err
	}
	env := define.Env{
		Emulator: emulator, Arch: "x86_64", DefaultMachine: "pc", KVM: true,
		Machines: map[string]string{"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"},
	}
	if d.OS != nil && d.OS.Type != nil && d.OS.Type.Arch == "i686" {
		env.Arch = "i686"
	}
	if m := machineAttr.FindStringSubmatch(text); m != nil && env.Machines[m[1]] == "" {
		env.Machines[m[1]] = m[1]
	}
	if err := define.Complete(d, env); err != nil {
		return nil, err
	}
	return cmdline.Build(d, cmdline.Plan{
		ID: -1, RuntimeDir: "/tmp/run", StateDir: "/tmp/state", LogDir: "/tmp/log", Env: env, Ports: &countingPorts{},
		Now: time.Unix(0, 0), Random: counter{}, Secret: func(domxml.SecretRef) ([]byte, bool) { return []byte(corpusSecret), true },
	})
}

// corpusSecret is the value of every secret in libvirt's own tests, counter where its keys come from.
const corpusSecret = "AQCVn5hO6HzFAhAAq0NCv8jtJcIcE+HOBlMQ1A"

type counter struct{}

func (counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i)
	}
	return len(p), nil
}

// countingPorts counts up, as libvirt's own tests do.
type countingPorts struct{ vnc, web int }

func (p *countingPorts) Allocate(service, _ string) (int, error) {
	if service == "vnc-websocket" {
		p.web++
		return 5699 + p.web, nil
	}
	p.vnc++
	return 5899 + p.vnc, nil
}

func TestCorpusArguments(t *testing.T) {
	dir := corpus(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.x86_64-latest.args"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	must := floor(t, "corpus-args.txt")
	var passed, refused, failed []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".x86_64-latest.args")
		text, err := os.ReadFile(filepath.Join(dir, name+".xml"))
		if err != nil {
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := corpusBuild(string(text))
		var diff string
		if err == nil {
			diff = difference(splitArgs(string(want)), c.Args)
		}
		switch {
		case verr.Is(err, verr.ConfigUnsupported):
			refused = append(refused, name)
		case err != nil, diff != "":
			failed = append(failed, name)
			t.Logf("%s: %v\n%s", name, err, diff)
		default:
			passed = append(passed, name)
			continue
		}
		if slices.Contains(must, name) {
			t.Errorf("%s passed before: %v\n%s", name, err, diff)
		}
	}
	t.Logf("%d of %d equal, %d refused by name, %d differ", len(passed), len(files), len(refused), len(failed))
	update(t, "corpus-args.txt", passed)
}

func TestCorpusErrors(t *testing.T) {
	dir := corpus(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.x86_64-latest.err"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	must := floor(t, "corpus-errors.txt")
	var rejected []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".x86_64-latest.err")
		text, err := os.ReadFile(filepath.Join(dir, name+".xml"))
		if err != nil {
			continue
		}
		_, err = corpusBuild(string(text))
		var e *verr.Error
		if errors.As(err, &e) {
			rejected = append(rejected, name)
			continue
		}
		t.Logf("%s is accepted: %v", name, err)
		if slices.Contains(must, name) {
			t.Errorf("%s was rejected before: %v", name, err)
		}
	}
	t.Logf("%d of %d rejected", len(rejected), len(files))
	update(t, "corpus-errors.txt", rejected)
}

// update writes a floor anew when asked to.
func update(t *testing.T, file string, names []string) {
	t.Helper()
	if os.Getenv("LODGE_UPDATE") == "" {
		return
	}
	if err := os.WriteFile(filepath.Join("testdata", file), []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// splitArgs reads a command line as the corpus has it: an argument a line or more, quoted as in a shell.
func splitArgs(s string) []string {
	var args []string
	var cur strings.Builder
	quoted, started := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'':
			quoted, started = !quoted, true
		case c == '\\' && !quoted && i+1 < len(s):
			i++
			if s[i] != '\n' {
				cur.WriteByte(s[i])
				started = true
			}
		case (c == ' ' || c == '\n') && !quoted:
			if started {
				args = append(args, cur.String())
				cur.Reset()
				started = false
			}
		default:
			cur.WriteByte(c)
			started = true
		}
	}
	if started {
		args = append(args, cur.String())
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "/usr/bin/qemu") })
	return args[i+1:]
}

// ignored are options that say how a QEMU is watched, not what the guest is.
var ignored = []string{"-sandbox", "-msg", "-mon", "-S", "-no-user-config", "-nodefaults"}

// difference compares two command lines as graphs of devices: order, names of block nodes and notation do not matter.
func difference(want, got []string) string {
	w, g := graph(want), graph(got)
	var out []string
	for _, line := range w {
		if !slices.Contains(g, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			out = append(out, "+ "+line)
		}
	}
	return strings.Join(out, "\n")
}

// graph writes each option as one canonical line.
func graph(args []string) []string {
	nodes := map[string]map[string]string{}
	type option struct {
		name  string
		props map[string]string
	}
	var options []option
	legacy := map[string]string{}
	for i := 0; i < len(args); i++ {
		name := args[i]
		value := ""
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			value = args[i]
		}
		switch {
		case name == "-no-acpi":
			legacy["acpi"] = "off"
		case name == "-no-hpet":
			legacy["hpet"] = "off"
		case name == "-watchdog-action":
			options = append(options, option{"-action", map[string]string{"watchdog": value}})
		case slices.Contains(ignored, name) || strings.Contains(value, "masterKey0") || strings.Contains(value, "charmonitor"):
		case name == "-blockdev":
			p := properties(value)
			nodes[p["node-name"]] = p
		default:
			options = append(options, option{name, properties(value)})
		}
	}
	var lines []string
	for _, o := range options {
		if o.name == "-machine" {
			maps.Copy(o.props, legacy)
		}
		lines = append(lines, o.name+" "+flat(o.props, nodes))
	}
	slices.Sort(lines)
	return lines
}

// properties reads JSON or QEMU's own syntax.
func properties(value string) map[string]string {
	p := map[string]string{}
	if strings.HasPrefix(value, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(value), &m) == nil {
			for k, v := range m {
				p[k] = text(v)
			}
		}
		return p
	}
	if strings.HasPrefix(value, "socket,") && strings.Contains(value, "server=on") {
		value = listening.ReplaceAllString(value, "")
	}
	value = strings.ReplaceAll(strings.Replace(value, "unix,addr", "unix=on,addr", 1), "disable-ticketing=on,", "")
	for i, part := range strings.Split(strings.ReplaceAll(value, ",,", "\x00"), ",") {
		part = strings.ReplaceAll(part, "\x00", ",")
		k, v, ok := strings.Cut(part, "=")
		switch {
		case !ok && i > 0:
			v = "on"
		case !ok:
			k, v = "", part
		}
		if _, twice := p[k]; twice {
			k += "+" + v
		}
		p[k] = text(v)
	}
	return p
}

var (
	// listening is where a socket listens: libvirt passes descriptors.
	listening = regexp.MustCompile(`,(fd=\d+|path=[^,]*)`)
	versions  = regexp.MustCompile(`^(pc)(-i440fx-[0-9.]+)?$|^(q35)$`)
	// secretName begins with the number of a block node, which libvirt counts the other way round.
	secretName = regexp.MustCompile(`^libvirt-\d+-((storage|format)-.*secret0)$`)
	autopath   = regexp.MustCompile(`^/(tmp|var)/.*/([^/]+)$`)
)

func text(v any) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "on"
		}
		return "off"
	case map[string]any:
		m := map[string]string{}
		for k, e := range v {
			m[k] = text(e)
		}
		return flat(m, nil)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = text(v[i])
		}
		return strings.Join(parts, ";")
	case string:
		switch {
		case versions.MatchString(v):
			if strings.HasSuffix(v, "q35") {
				return "pc-q35"
			}
			return "pc-i440fx"
		case strings.HasPrefix(v, "pc-q35-"):
			return "pc-q35"
		case autopath.MatchString(v):
			return autopath.FindStringSubmatch(v)[2]
		case v == "yes":
			return "on"
		}
		return secretName.ReplaceAllString(v, "libvirt-N-$1")
	case float64:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprint(v)
}

// flat writes properties in order, with the nodes that they name in place.
func flat(p map[string]string, nodes map[string]map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(p)) {
		v := p[k]
		if n, ok := nodes[v]; ok && (k == "drive" || k == "file" || k == "backing" || strings.HasPrefix(k, "pflash")) {
			v = "[" + flat(n, nodes) + "]"
		}
		if k == "node-name" {
			continue
		}
		parts = append(parts, k+"="+v)
	}
	return strings.Join(parts, " ")
}
