package door

import (
	"bufio"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Facts about libvirt 9.0.0, where they are at hand.
const (
	procedureList = "../../../../shared/tools/rpcprocs.tsv"
	referenceText = "../../../../shared/reference/libvirt.md"
)

func TestEveryProcedureIsInTheTable(t *testing.T) {
	seen := map[string]bool{}
	for n := 1; n < len(remoteProcedures); n++ {
		name := remoteProcedures[n].name
		if name == "" || seen[name] {
			t.Errorf("procedure %d has the name %q", n, name)
		}
		seen[name] = true
	}
	if p := remoteProcedures[0]; p.name != "" || p.handler != nil {
		t.Error("procedure 0 exists")
	}
}

func TestFlagsAddUp(t *testing.T) {
	for _, tc := range []struct {
		name string
		mask flag
		want int
	}{
		{"refused over read-only connections", changes | reveals, 198},
		{"priority", high, 184},
		{"event messages", message, 51},
	} {
		n := 0
		for _, p := range remoteProcedures {
			if p.flags&tc.mask != 0 {
				n++
			}
		}
		if n != tc.want {
			t.Errorf("%s: %d procedures, want %d", tc.name, n, tc.want)
		}
	}
	for n, p := range remoteProcedures {
		if p.flags&message != 0 && p.handler != nil {
			t.Errorf("procedure %d is an event and has a handler", n)
		}
	}
}

func TestNamesAndNumbersAreLibvirts(t *testing.T) {
	f, err := os.Open(procedureList)
	if err != nil {
		t.Skip("no list of procedures here")
	}
	defer f.Close()
	tables := map[string][]procedure{"remote": remoteProcedures[:], "qemu": qemuProcedures[:], "lxc": lxcProcedures[:]}
	counts := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || tables[fields[0]] == nil {
			continue
		}
		n, err := strconv.Atoi(fields[1])
		if err != nil || n >= len(tables[fields[0]]) {
			t.Fatalf("%s %s is not in the table", fields[0], fields[1])
		}
		if got := tables[fields[0]][n].name; got != fields[2] {
			t.Errorf("%s %d is %q, want %q", fields[0], n, got, fields[2])
		}
		counts[fields[0]]++
	}
	for program, table := range tables {
		if counts[program] != len(table)-1 {
			t.Errorf("%s has %d procedures, want %d", program, len(table)-1, counts[program])
		}
	}
}

func TestFlagsAreLibvirts(t *testing.T) {
	text, err := os.ReadFile(referenceText)
	if err != nil {
		t.Skip("no reference here")
	}
	_, list, _ := strings.Cut(string(text), "### 3.1")
	list, _, _ = strings.Cut(list, "### 3.2")
	entries := regexp.MustCompile(`(?:[ ·]|^)(\d+) [a-z][\w:]*([\^!?]*)`).FindAllStringSubmatch(list, -1)
	if len(entries) < 443 {
		t.Fatalf("only %d entries", len(entries))
	}
	marks := []struct {
		mark string
		flag flag
	}{{"!", changes}, {"?", reveals}, {"^", high}}
	for _, e := range entries {
		n, err := strconv.Atoi(e[1])
		if err != nil || n >= len(remoteProcedures) {
			t.Fatalf("entry %q", e[0])
		}
		for _, m := range marks {
			if got, want := remoteProcedures[n].flags&m.flag != 0, strings.Contains(e[2], m.mark); got != want {
				t.Errorf("procedure %d %s: flag %s is %v, want %v", n, remoteProcedures[n].name, m.mark, got, want)
			}
		}
	}
}
