package parted

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

const printed = `BYT;
/dev/odd:disk:104857600B:loopback:512:4096:gpt:Loopback device:;
1:17408B:1048575B:1031168B:free;
1:1048576B:10485759B:9437184B:ext4:a name: with colons:boot, esp;
7:10485760B:20971519B:10485760B:::;
1:20971520B:104840703B:83869184B:free;
`

func TestTableIsRead(t *testing.T) {
	table, err := parse(printed, "/dev/odd:disk")
	if err != nil {
		t.Fatal(err)
	}
	if table.Label != "gpt" || table.Sector != 512 || len(table.Parts) != 2 || len(table.Free) != 2 {
		t.Errorf("read as %+v", table)
	}
	p := table.Parts[0]
	if p.Number != 1 || p.Start != 1048576 || p.End != 10485760 || p.System != "ext4" || !slices.Equal(p.Flags, []string{"boot", "esp"}) || !p.Has("esp") {
		t.Errorf("partition is %+v", p)
	}
	if f := table.Free[1]; f.Start != 20971520 || f.Size() != 83869184 {
		t.Errorf("free is %+v", f)
	}
	for _, text := range []string{"", "BYT;", "BYT;\n/dev/a:1B:x:y:z;", strings.Replace(printed, "1:17408B", "x:17408B", 1)} {
		if table, err := parse(text, "/dev/odd:disk"); err == nil {
			t.Errorf("%q is read as %+v", text, table)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(printed)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parse(text, "/dev/odd:disk")
		if err != nil {
			return
		}
		table.nest()
		for _, s := range table.Free {
			if s.Start >= s.End {
				t.Errorf("%q has free space %+v", text, s)
			}
		}
	})
}

func FuzzCodes(f *testing.F) {
	loop := make([]byte, 1024)
	for _, at := range []int{0, 512} { // an extended partition that leads to itself
		loop[at+tableAt+codeAt], loop[at+tableAt+startAt] = 5, 1
		loop[at+tableAt+entrySize+codeAt] = 5
		loop[at+magicAt], loop[at+magicAt+1] = 0x55, 0xaa
	}
	f.Add(loop)
	f.Fuzz(func(t *testing.T, disk []byte) {
		found, err := codes(bytes.NewReader(disk), 512)
		if err == nil && len(found) > maxPrimary*(maxLogical+1) {
			t.Errorf("%d partitions", len(found))
		}
	})
}
