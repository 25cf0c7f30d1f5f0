package domxml

import (
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestRootIsRead(t *testing.T) {
	const doc = "<?xml version='1.0'?>\n<!-- a pool --><pool type='d&amp;r' x=''><name>a&lt;b</name><other><name>no</name></other></pool>"
	if got, err := RootAttribute(doc, "pool", "type"); err != nil || got != "d&r" {
		t.Errorf("attribute %q, error %v", got, err)
	}
	if got, err := RootAttribute(doc, "pool", "name"); err != nil || got != "" {
		t.Errorf("missing attribute %q, error %v", got, err)
	}
	if got, err := RootChild(doc, "pool", "name"); err != nil || got != "a<b" {
		t.Errorf("child %q, error %v", got, err)
	}
	if got, err := RootChild(doc, "pool", "uuid"); err != nil || got != "" {
		t.Errorf("missing child %q, error %v", got, err)
	}
	for _, bad := range []string{"", "<volume type='dir'/>", "<pool type='dir'>", "<!DOCTYPE pool><pool/>"} {
		if _, err := RootAttribute(bad, "pool", "type"); !verr.Is(err, verr.XMLError) {
			t.Errorf("attribute of %q: %v", bad, err)
		}
		if _, err := RootChild(bad, "pool", "name"); !verr.Is(err, verr.XMLError) {
			t.Errorf("child of %q: %v", bad, err)
		}
	}
}
