package domxml

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestOnLockFailureIsKept(t *testing.T) {
	for _, c := range []struct{ name, doc, want string }{
		{
			"after on_crash", "<domain>\n  <on_crash>destroy</on_crash>\n  <devices>\n  </devices>\n</domain>\n",
			"<domain>\n  <on_crash>destroy</on_crash>\n  <on_lockfailure>pause</on_lockfailure>\n  <devices>\n  </devices>\n</domain>\n",
		},
		{
			"at the end of a definition without actions", "<domain>\n  <name>a</name>\n</domain>\n",
			"<domain>\n  <name>a</name>\n  <on_lockfailure>pause</on_lockfailure>\n</domain>\n",
		},
		{
			"not where there is one", "<domain>\n  <on_lockfailure>ignore</on_lockfailure>\n</domain>\n",
			"<domain>\n  <on_lockfailure>ignore</on_lockfailure>\n</domain>\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := SetOnLockFailure(c.doc, "pause")
			if err != nil || got != c.want {
				t.Fatalf("got %q, error %v", got, err)
			}
			again, err := SetOnLockFailure(got, "poweroff")
			if err != nil || again != got {
				t.Errorf("set twice: %q, error %v", again, err)
			}
			if action, err := OnLockFailure(got); err != nil || !strings.Contains(got, ">"+action+"<") {
				t.Errorf("reads %q, error %v", action, err)
			}
		})
	}
}

func TestOnLockFailureKnowsFourWords(t *testing.T) {
	for _, word := range lockFailureActions {
		if got, err := OnLockFailure("<domain><on_lockfailure>" + word + "</on_lockfailure></domain>"); err != nil || got != word {
			t.Errorf("%q reads %q, error %v", word, got, err)
		}
	}
	for _, bad := range []string{"<domain><on_lockfailure>explode</on_lockfailure></domain>", "<domain><on_lockfailure/></domain>"} {
		if got, err := OnLockFailure(bad); !verr.Is(err, verr.XMLError) {
			t.Errorf("%s reads %q, error %v", bad, got, err)
		}
	}
	if got, err := OnLockFailure("<domain><metadata><on_lockfailure>pause</on_lockfailure></metadata></domain>"); err != nil || got != "" {
		t.Errorf("one elsewhere reads %q, error %v", got, err)
	}
}
