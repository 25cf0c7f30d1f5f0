package logging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/logging"
)

// What is accepted and refused here, and how it is shown, is what virtlockd 9.0.0 does but for the cases that say otherwise.

func TestParseOutputs(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"": "", "  ": "", "1:stderr": "1:stderr", " 1:stderr ": "1:stderr", "01:stderr": "1:stderr", "+1:stderr": "1:stderr",
		"1:stderr   3:stderr": "3:stderr", "3:journald": "3:journald", "3:syslog:virtlockd": "3:syslog:virtlockd", "1:syslog:": "1:syslog:",
		"1:stderr 3:file:/a": "1:stderr 3:file:/a", "3:file:a": "3:file:" + filepath.Join(dir, "a"),
		"1:file:/a 2:file:/a 3:syslog:x 4:syslog:y": "2:file:/a 3:syslog:x 4:syslog:y",
	} {
		got, err := logging.ParseOutputs(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, error %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"stderr", "3", "3:", ":stderr", "x:stderr", "1x:stderr", "0:stderr", "5:stderr", "-1:stderr", "11:stderr", "00:stderr", "1:STDERR",
		"1:bogus", "2:stderr:x", "1:journald:x", "3:syslog", "1:syslog:a:b", "3:file", "1:file:", "1:file:/a:b", "1:stderr bogus",
	} {
		if got, err := logging.ParseOutputs(text); err == nil || !strings.Contains(err.Error(), "log output \"") {
			t.Errorf("%q: %q, error %v", text, got, err)
		}
	}
}

func TestParseFilters(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "  ": "", "1:lock 3:rpc": "1:*lock* 3:*rpc*", "1:a 2:b 3:a": "1:*a* 2:*b* 3:*a*", "1:+a": "1:*a*", "1:a.b": "1:*a.b*",
		"1:a?[b": "1:*a?[b*", "01:a": "1:*a*",
		// virtlockd shows these with a second star.
		"1:*a": "1:*a*", "1:a*": "1:*a*", "1:*": "1:*",
	} {
		got, err := logging.ParseFilters(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, error %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"a", "1", ":a", "0:a", "5:a", "9:b", "-1:a", "1x:a", "1:", "1:+", "1:a 9:b",
		// virtlockd takes this as 1:a.
		"1:a:b",
	} {
		if got, err := logging.ParseFilters(text); err == nil || !strings.Contains(err.Error(), "log filter \"") {
			t.Errorf("%q: %q, error %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"1:stderr 3:file:/a", "3:syslog:x", "1:*a?[b*", "2:+locking 1:", "4:journald"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if outputs, err := logging.ParseOutputs(text); err == nil {
			again, err := logging.ParseOutputs(outputs.String())
			if err != nil || again.String() != outputs.String() {
				t.Errorf("%q became %q and then %q, error %v", text, outputs, again, err)
			}
		}
		if filters, err := logging.ParseFilters(text); err == nil {
			again, err := logging.ParseFilters(filters.String())
			if err != nil || again.String() != filters.String() {
				t.Errorf("%q became %q and then %q, error %v", text, filters, again, err)
			}
		}
	})
}
