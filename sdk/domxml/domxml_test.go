package domxml_test

import (
	"os"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// printed is a definition exactly as libvirt prints it.
const printed = `<domain type='test'>
  <name>x</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e1930</uuid>
  <description>a &apos;q&apos; &quot;z&quot; &lt;&gt; 
 x 	 é</description>
  <metadata>
    <a:x xmlns:a="u:a" k="v &quot;'&lt; &#10;">
      <a:y>1 ' " &gt;</a:y>
      <!-- c -->
      <z/>
    </a:x>
    <m xmlns="u:m">a<b>c</b>d<e/></m>
    <n xmlns="u:n">
      <o/>
    </n>
  </metadata>
  <memory unit='KiB'>97657</memory>
  <currentMemory unit='KiB'>97657</currentMemory>
  <vcpu placement='static' cpuset='1-3,5'>2</vcpu>
  <os>
    <type arch='i686'>hvm</type>
    <boot dev='network'/>
  </os>
  <features>
    <acpi/>
  </features>
  <clock offset='localtime'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <source file='/a&apos;b'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <graphics type='vnc' port='-1' autoport='yes'>
      <listen type='address'/>
    </graphics>
  </devices>
</domain>
`

const minimal = `<domain type='test'><name>x</name><memory>2048</memory><os><type>hvm</type></os></domain>`

func TestPrintsAsLibvirt(t *testing.T) {
	d, err := domxml.Parse(strings.ReplaceAll(printed, "\n    <graphics", "\n\n<!-- gone -->\t<graphics"))
	if err != nil {
		t.Fatal(err)
	}
	if err := domxml.Complete(d); err != nil {
		t.Fatal(err)
	}
	got, err := domxml.Format(d)
	if err != nil {
		t.Fatal(err)
	}
	if got != printed {
		t.Errorf("printed\n%s\nwant\n%s", got, printed)
	}
}

func TestReformatKeepsWhatIsPrinted(t *testing.T) {
	for name, doc := range map[string]string{
		"a domain":          printed,
		"no devices":        "<domain>\n  <devices>\n  </devices>\n</domain>\n",
		"an empty root":     "<domain/>\n",
		"a snapshot":        "<domainsnapshot>\n  <name>&lt;</name>\n</domainsnapshot>\n",
		"a text of a space": "<domain>\n  <name> </name>\n</domain>\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := domxml.Reformat(doc)
			if err != nil || got != doc {
				t.Errorf("got %v\n%s", err, got)
			}
		})
	}
}

func TestRefusesHostileDocuments(t *testing.T) {
	deep := "<domain>" + strings.Repeat("<a>", 64) + strings.Repeat("</a>", 65)
	for name, c := range map[string]struct{ doc, says string }{
		"nothing":                  {"", "empty"},
		"an open tag":              {"<domain", "malformed"},
		"another root":             {"<network/>", "expecting root element of 'domain', not 'network'"},
		"a second root":            {"<domain/><domain/>", "follows the root"},
		"text after the root":      {"<domain/>x", "outside"},
		"a document type":          {"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain/>", "document type"},
		"an unknown entity":        {"<domain>&lol;</domain>", "reference &lol;"},
		"a null character":         {"<domain>&#0;</domain>", "reference &#0;"},
		"an endless reference":     {"<domain>&" + strings.Repeat("a", 99) + "</domain>", "reference"},
		"a processing instruction": {"<domain><?php ?></domain>", "processing"},
		"a late declaration":       {" <?xml version='1.0'?><domain/>", "processing"},
		"another encoding":         {"<?xml version='1.0' encoding='UTF-16'?><domain/>", "encoding"},
		"crossed tags":             {"<domain>\n<a><b></a></b></domain>", "line 2: end tag \"a\" does not match"},
		"an attribute twice":       {"<domain type='a' type='b'/>", "twice"},
		"an unquoted attribute":    {"<domain type=a/>", "not quoted"},
		"'<' in an attribute":      {"<domain type='<'/>", "contains '<'"},
		"a bad name":               {"<domain><1/></domain>", "malformed"},
		"two colons":               {"<domain><a:b:c/></domain>", "malformed"},
		"a control character":      {"<domain>\n\x01</domain>", "line 2: control character"},
		"bytes that are no UTF-8":  {"<domain>\xff</domain>", "UTF-8"},
		"too deep a nesting":       {deep, "deeper"},
		"too many elements":        {"<domain>" + strings.Repeat("<a/>", domxml.MaxElements) + "</domain>", "more than"},
		"too large a text":         {strings.Repeat(" ", domxml.MaxText) + "<domain/>", "larger"},
		"a number that is none":    {"<domain>\n<vcpu>abc</vcpu></domain>", "line 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := domxml.Parse(c.doc)
			if !verr.Is(err, verr.XMLError) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an XML error that says %q", err, c.says)
			}
		})
	}
}

func TestAcceptsOrdinaryDocuments(t *testing.T) {
	for name, doc := range map[string]string{
		"a declaration":       "<?xml version=\"1.0\" encoding='utf-8'?>\n" + minimal,
		"a byte order mark":   "\ufeff<?xml version='1.0'?>" + minimal,
		"comments around":     "<!-- a -->\n" + minimal + "<!-- b -->\n",
		"a CDATA section":     strings.Replace(minimal, ">x<", "><![CDATA[x]]><", 1),
		"an unknown element":  strings.Replace(minimal, "<os>", "<future a='b'/><os>", 1),
		"a foreign namespace": strings.Replace(minimal, "<domain", "<domain xmlns:q='u'", 1),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := domxml.Parse(doc)
			if err != nil || d.Name != "x" {
				t.Errorf("got %v, %v", d, err)
			}
		})
	}
}

func TestMetadataKeepsNamespacesDeclaredOutside(t *testing.T) {
	d, err := domxml.Parse(`<domain type='test' xmlns:q='u:q'><name>x</name><metadata xmlns:r='u:r'><q:w r:a='1'/></metadata></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	if want := `<q:w xmlns:q="u:q" xmlns:r="u:r" r:a='1'/>`; d.Metadata.XML != want {
		t.Errorf("got %s, want %s", d.Metadata.XML, want)
	}
}

func TestRedact(t *testing.T) {
	const doc = `<domain>
  <name>passwd</name>
  <devices>
    <disk type='network'>
      <source protocol='https'>
        <host name='h'/>
        <cookies>
          <cookie name='a'>b</cookie>
        </cookies>
      </source>
    </disk>
    <graphics type='vnc' passwd='&lt;x' passwdValidTo='2030-01-01T00:00:00'/>
    <graphics type='spice' passwd="y"/>
  </devices>
</domain>
`
	got, err := domxml.Redact(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(" passwd='&lt;x'", "", ` passwd="y"`, "",
		"\n        <cookies>\n          <cookie name='a'>b</cookie>\n        </cookies>", "").Replace(doc)
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestRenamesAndRenumbers(t *testing.T) {
	doc, err := domxml.SetName(printed, "a<b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := domxml.SetUUID(doc, "{"); err == nil {
		t.Fatal("took a malformed uuid")
	}
	doc, err = domxml.SetUUID(doc, "00000000-0000-0000-0000-000000000001")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("<name>x<", "<name>a&lt;b<", "6695eb01-f6a4-8304-79aa-97f2502e1930",
		"00000000-0000-0000-0000-000000000001").Replace(printed)
	if doc != want {
		t.Errorf("got\n%s", doc)
	}
	if _, err := domxml.SetName(printed, "a/b"); !verr.Is(err, verr.XMLError) {
		t.Errorf("a name with a slash: %v", err)
	}
}

func TestIDs(t *testing.T) {
	for _, c := range []struct {
		doc, want string
		id        int32
	}{
		{"<domain type='test'>\n</domain>\n", "<domain type='test' id='7'>\n</domain>\n", 7},
		{"<domain type='test' id='1' xmlns:a='b'>", "<domain type='test' id='7' xmlns:a='b'>", 7},
		{"<domain type='test' id='1'>", "<domain type='test'>", -1},
		{"<domain>", "<domain id='0'>", 0},
	} {
		if got, err := domxml.SetID(c.doc, c.id); err != nil || got != c.want {
			t.Errorf("%s with id %d: got %s, %v", c.doc, c.id, got, err)
		}
	}
	if _, err := domxml.SetID("<network/>", 1); !verr.Is(err, verr.XMLError) {
		t.Errorf("a network got an id: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(printed)
	f.Add(minimal)
	f.Add("<domain><metadata xmlns:a='b'><a:x>1<b/>2</a:x></metadata></domain>")
	for _, name := range corpus(f) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, doc string) {
		once, err := domxml.Reformat(doc)
		if err != nil {
			return
		}
		if len(once) > domxml.MaxText {
			return
		}
		twice, err := domxml.Reformat(once)
		if err != nil || once != twice {
			t.Fatalf("printing changes what was printed: %v\n%q\n%q", err, once, twice)
		}
		if _, err := domxml.Redact(doc); err != nil {
			t.Fatalf("redact: %v", err)
		}
		d, err := domxml.Parse(doc)
		if err != nil {
			return
		}
		if domxml.Complete(d) == nil {
			domxml.Summarize(d)
			domxml.WritableDisks(d)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := domxml.Parse(printed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFormat(b *testing.B) {
	d, err := domxml.Parse(printed)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := domxml.Format(d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReformat(b *testing.B) {
	for b.Loop() {
		if _, err := domxml.Reformat(printed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	secret := strings.Replace(printed, "autoport", "passwd='a' autoport", 1)
	for b.Loop() {
		if _, err := domxml.Redact(secret); err != nil {
			b.Fatal(err)
		}
	}
}
