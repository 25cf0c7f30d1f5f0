package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// command is one call of virsh and what it must say.
type command struct {
	name string
	// args of virsh; FILE stands for the definition.
	args string
	// want is a pattern for its output, or for its error if fails is set.
	want  string
	fails bool
	// figures says that the answer may lack some for a while, on a machine that has much to do.
	figures bool
}

// hostCommands hold for every driver.
var hostCommands = []command{
	{name: "the version names a library and a hypervisor", args: "version", want: `Using library: libvirt`},
	{name: "the host has a name", args: "hostname", want: `\S`},
	{name: "the node has a processor", args: "nodeinfo", want: `CPU\(s\): +[1-9]`},
	{name: "capabilities are a document", args: "capabilities", want: `<capabilities>`},
	{name: "the node tells free memory", args: "freecell", want: `Total: +\d+ KiB`},
	{name: "a processor map exists", args: "nodecpumap", want: `CPUs present`},
}

// lifeCommands tell the life of a domain in order.
var lifeCommands = []command{
	{name: "a domain is defined", args: "define FILE", want: `Domain 'life' defined from`},
	{name: "it is listed as shut off", args: "list --all", want: `-\s+life\s+shut off`},
	{name: "its state is shut off", args: "domstate life", want: `^shut off`},
	{name: "it has a UUID", args: "domuuid life", want: `^[0-9a-f-]{36}\n`},
	{name: "its info is complete", args: "dominfo life", want: `(?s)Name: +life.*State: +shut off.*Persistent: +yes.*Autostart: +disable`},
	{name: "its XML names it", args: "dumpxml life", want: `<name>life</name>`},
	{name: "a missing domain is an error", args: "dominfo nobody", want: `failed to get domain 'nobody'`, fails: true},
	{name: "it is to start with the host", args: "autostart life", want: `marked as autostarted`},
	{name: "and no longer", args: "autostart --disable life", want: `unmarked as autostarted`},
	{name: "it gets a title", args: "desc life --title --new-desc Hello", want: `title updated`},
	{name: "and keeps it", args: "desc life --title", want: `^Hello`},
	{name: "it is renamed", args: "domrename life lives", want: `Domain successfully renamed`},
	{name: "and back", args: "domrename lives life", want: `Domain successfully renamed`},
	{name: "what is not running cannot be suspended", args: "suspend life", want: `domain is not running`, fails: true},
	{name: "it starts", args: "start life", want: `Domain 'life' started`},
	{name: "it starts only once", args: "start life", want: `Domain is already active`, fails: true},
	{name: "it runs", args: "domstate life --reason", want: `^running \(booted\)`},
	{name: "it has an id", args: "domid life", want: `^\d+\n`},
	{name: "it is listed as running", args: "list", want: `\d+\s+life\s+running`},
	{name: "its live XML has an id", args: "dumpxml life", want: `<domain type='\w+' id='\d+'`},
	{name: "statistics tell its state", args: "domstats --state life", want: `state\.state=1`},
	{name: "it is suspended", args: "suspend life", want: `Domain 'life' suspended`},
	{name: "and stands", args: "domstate life --reason", want: `^paused \(user\)`},
	{name: "it is resumed", args: "resume life", want: `Domain 'life' resumed`},
	{name: "and runs", args: "domstate life", want: `^running`},
	{name: "it is reset", args: "reset life", want: `Domain 'life' was reset`},
	{name: "it is destroyed", args: "destroy life", want: `Domain 'life' destroyed`},
	{name: "its state says why it is off", args: "domstate life --reason", want: `^shut off \(destroyed\)`},
	{name: "what is off cannot be destroyed", args: "destroy life", want: `domain is not running`, fails: true},
	{name: "it starts paused", args: "start --paused life", want: `Domain 'life' started`},
	{name: "and is paused", args: "domstate life", want: `^paused`},
	{name: "a running domain can lose its definition", args: "undefine life", want: `Domain 'life' has been undefined`},
	{name: "and is transient then", args: "dominfo life", want: `Persistent: +no`},
	{name: "and gone when it ends", args: "destroy life", want: `destroyed`},
	{name: "so that nobody finds it", args: "domstate life", want: `failed to get domain 'life'`, fails: true},
	{name: "a transient domain is created", args: "create FILE", want: `Domain 'life' created from`},
	{name: "and ends without a trace", args: "destroy life", want: `destroyed`},
}

// run runs commands in order; a failed one does not stop the rest.
func run(t *testing.T, commands []command, do func(args ...string) (string, error), file string) {
	t.Helper()
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(c.args, "FILE", file))
			out, err := do(args...)
			// Figures that a driver cannot bring in time are left out of an answer, so that nobody waits for them.
			for n := 0; c.figures && n < 20 && err == nil && !regexp.MustCompile(c.want).MatchString(out); n++ {
				time.Sleep(500 * time.Millisecond)
				out, err = do(args...)
			}
			if err != nil {
				out += err.Error()
			}
			if (err != nil) != c.fails {
				t.Errorf("virsh %s: failed is %v, want %v: %s", c.args, err != nil, c.fails, out)
			} else if !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("virsh %s says %q, want %s", c.args, out, c.want)
			}
		})
	}
}

func TestVirsh(t *testing.T) {
	need(t, "virsh")
	for name, tc := range map[string]struct {
		uri, xml string
		needs    []string
	}{
		"on the test driver": {testURI, testDomain("life", "", ""), nil},
		"on QEMU":            {qemuURI, qemuDomain("life", ""), []string{"qemu-system-x86_64"}},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, tc.needs...)
			h := startHost(t)
			file := write(t, "life.xml", tc.xml)
			do := func(args ...string) (string, error) { return virshLoud(t, h, tc.uri, args...) }
			run(t, hostCommands, do, file)
			run(t, lifeCommands, do, file)
		})
	}
}

// TestVirshReadOnly holds that a read-only connection reads and changes nothing.
func TestVirshReadOnly(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	file := write(t, "d.xml", testDomain("readonly", "", ""))
	virsh(t, h, testURI, "define", file)
	run(t, []command{
		{name: "lists are read", args: "-r list --all", want: "readonly"},
		{name: "XML is read", args: "-r dumpxml readonly", want: "<name>readonly</name>"},
		{name: "secrets are not", args: "-r dumpxml --security-info readonly", want: "operation forbidden", fails: true},
		{name: "nothing is started", args: "-r start readonly", want: "operation forbidden", fails: true},
		{name: "nothing is defined", args: "-r define FILE", want: "operation forbidden", fails: true},
	}, func(args ...string) (string, error) { return virshLoud(t, h, testURI, args...) }, file)
}

// TestDefaultOfTheTestDriver holds what programs that test against test:///default expect to find.
func TestDefaultOfTheTestDriver(t *testing.T) {
	need(t, "virsh")
	h := startSettledHost(t)
	run(t, []command{
		{name: "a domain runs", args: "list", want: `1\s+test\s+running`},
		{name: "its UUID is libvirt's", args: "domuuid test", want: `^6695eb01-f6a4-8304-79aa-97f2502e193f`},
		{name: "it has its memory", args: "dominfo test", want: `Max memory: +8388608 KiB`},
	}, func(args ...string) (string, error) { return virshLoud(t, h, testURI, args...) }, "")
}
