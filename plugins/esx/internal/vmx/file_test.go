package vmx_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestFileIsRead(t *testing.T) {
	for _, c := range []struct {
		name, text, key, want string
	}{
		{"a quoted value", `memsize = "32"`, "memsize", "32"},
		{"a bare value", `memsize=32 # MiB`, "memsize", "32"},
		{"a comment after a value", `memsize = "32" # "MiB"`, "memsize", "32"},
		{"a key of another case", `MemSize = "32"`, "memsize", "32"},
		{"the last of two", "memsize = \"32\"\nMEMSIZE = \"64\"", "memsize", "64"},
		{"lines of Windows", "a = \"1\"\r\nmemsize = \"32\"\r\n", "memsize", "32"},
		{"a byte order mark", "\ufeffmemsize = \"32\"", "memsize", "32"},
		{"an empty value", `checkpoint.vmState = ""`, "checkpoint.vmstate", ""},
		{"a hash in a value", `a = "1 # 2"`, "a", "1 # 2"},
		{"escapes", `a = "|22|7C|0A|c3|a4"`, "a", "\"|\nä"},
		{"what is no escape", `a = "1|2|zz|"`, "a", "1|2|zz|"},
		{"an escape that is no text", `a = "|ff"`, "a", "|ff"},
		{"another encoding", ".encoding = \"windows-1252\"\na = \"\xe4\"", "a", "ä"},
		{"a name of colons", `scsi0:1.present = "true"`, "scsi0:1.present", "true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := vmx.ParseFile(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := f.Get(c.key); !ok || got != c.want {
				t.Errorf("%q is %q, %v; want %q", c.key, got, ok, c.want)
			}
		})
	}
}

func TestFileIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
	}{
		{"no assignment", "a = \"1\"\nmemsize", "line 2"},
		{"no name", `= "1"`, "expecting a name"},
		{"a name with a space", `a b = "1"`, "expecting a name"},
		{"an open string", `a = "1`, "unterminated"},
		{"text after a string", `a = "1" 2`, "unexpected text"},
		{"a quote in a bare value", `a = 1"2"`, "unexpected quote"},
		{"no UTF-8", "a = \"\xe4\"", "UTF-8"},
		{"an unknown encoding", `.encoding = "klingon"`, "klingon"},
		{"a long line", `a = "` + strings.Repeat("x", 70<<10) + `"`, "longer than"},
		{"a long file", strings.Repeat("#\n", 1<<20), "longer than"},
		{"many entries", manyEntries(), "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := vmx.ParseFile(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if !verr.Is(err, 31) && !verr.Is(err, verr.ConfigUnsupported) {
				t.Errorf("%v has the wrong code", err)
			}
		})
	}
}

// manyEntries is a file of more entries than allowed.
func manyEntries() string {
	var b strings.Builder
	for n := range 20000 {
		b.WriteString("a")
		for ; n > 0; n /= 10 {
			b.WriteByte(byte('0' + n%10))
		}
		b.WriteString("=1\n")
	}
	return b.String()
}

func TestFileIsPrintedInItsOrder(t *testing.T) {
	f := &vmx.File{}
	f.Set(".encoding", "GBK")
	f.Set("displayName", "a \"b\"\n|")
	f.Set("memsize", "32")
	f.Set("DISPLAYNAME", "ä\"")
	want := ".encoding = \"UTF-8\"\ndisplayName = \"ä|22\"\nmemsize = \"32\"\n"
	if got := f.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzFile looks for files that are printed to something else than they were read from.
func FuzzFile(f *testing.F) {
	f.Add("a = \"|22\"\n.encoding = \"windows-1252\"\nb = \x80 # c")
	f.Add("#!/usr/bin/vmware\r\nscsi0:0.fileName = \"/vmfs/volumes/a/b.vmdk\"\r\n")
	f.Add(".encoding = \"utf-16le\"")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := vmx.ParseFile(text)
		if err != nil {
			return
		}
		printed := first.String()
		if len(printed) > 1<<20 {
			return
		}
		second, err := vmx.ParseFile(printed)
		if err != nil {
			if strings.Contains(err.Error(), "longer than") {
				return
			}
			t.Fatalf("%v in %q", err, printed)
		}
		if got := second.String(); got != printed || !slices.EqualFunc(first.Entries(), second.Entries(), same) {
			t.Fatalf("%q is printed as %q, then as %q", text, printed, got)
		}
	})
}

// same compares entries, but for the encoding, which changes.
func same(a, b vmx.Entry) bool { return a == b || strings.EqualFold(a.Key, ".encoding") }
