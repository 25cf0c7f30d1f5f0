package domxml_test

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// set sets metadata and fails the test if that fails; "" removes.
func set(t *testing.T, doc string, kind int32, key, uri, value string) string {
	t.Helper()
	v := &value
	if value == "" {
		v = nil
	}
	doc, err := domxml.SetMetadata(doc, kind, key, uri, v)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestMetadataComesBackAsItWasGiven(t *testing.T) {
	for name, c := range map[string]struct {
		kind                    int32
		uri, value, want, shown string
	}{
		"a title":         {domxml.MetadataTitle, "", "ti'tle", "ti'tle", "<title>ti&apos;tle</title>"},
		"a description":   {domxml.MetadataDescription, "", "a\n<b>", "a\n<b>", "<description>a\n&lt;b&gt;</description>"},
		"a small element": {domxml.MetadataElement, "u:1", "<a/>", "<a/>", `<k:a xmlns:k="u:1"/>`},
		"a mixed element": {
			domxml.MetadataElement, "u:1", "<d xmlns:f='f.bar'><k a='1'/>foobar</d>",
			`<d xmlns:f="f.bar"><k a="1"/>foobar</d>`,
			`<k:d xmlns:f="f.bar" xmlns:k="u:1"><k:k a="1"/>foobar</k:d>`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, base := range []string{printed, minimal} {
				doc := set(t, base, c.kind, "k", c.uri, c.value)
				if !strings.Contains(doc, c.shown) {
					t.Errorf("%s is not in\n%s", c.shown, doc)
				}
				got, err := domxml.GetMetadata(doc, c.kind, c.uri)
				if err != nil || got != c.want {
					t.Errorf("got %q, %v", got, err)
				}
				doc = set(t, doc, c.kind, "", c.uri, "")
				if _, err := domxml.GetMetadata(doc, c.kind, c.uri); !verr.Is(err, verr.NoDomainMetadata) {
					t.Errorf("removed metadata: %v", err)
				}
			}
		})
	}
}

func TestMetadataOfOneNamespaceIsReplaced(t *testing.T) {
	doc := set(t, printed, domxml.MetadataElement, "a2", "u:a", "<other/>")
	if strings.Contains(doc, "<a:x") || !strings.Contains(doc, `<a2:other xmlns:a2="u:a"/>`) {
		t.Errorf("got\n%s", doc)
	}
	if got, err := domxml.GetMetadata(doc, domxml.MetadataElement, "u:m"); got != "<m>a<b>c</b>d<e/></m>" {
		t.Errorf("the neighbour is %q, %v", got, err)
	}
	for _, uri := range []string{"u:a", "u:m", "u:n"} {
		doc = set(t, doc, domxml.MetadataElement, "", uri, "")
	}
	if strings.Contains(doc, "metadata") {
		t.Errorf("an empty element is left\n%s", doc)
	}
}

func TestMetadataRefuses(t *testing.T) {
	text := func(s string) *string { return &s }
	for name, c := range map[string]struct {
		kind     int32
		key, uri string
		value    *string
		code     verr.Code
	}{
		"a malformed element":        {2, "k", "u", text("<a><b></a>"), verr.XMLError},
		"a malformed prefix":         {2, "1:k", "u", text("<a/>"), verr.InvalidArg},
		"a prefix that injects":      {2, "k='v' b", "u", text("<a/>"), verr.InvalidArg},
		"no prefix":                  {2, "", "u", text("<a/>"), verr.InvalidArg},
		"no namespace":               {2, "k", "", text("<a/>"), verr.InvalidArg},
		"a title of two lines":       {1, "", "", text("a\nb"), verr.InvalidArg},
		"an unknown kind":            {5, "", "", text("a"), verr.InvalidArg},
		"to remove what is not":      {2, "", "nope", nil, verr.NoDomainMetadata},
		"an entity in the element":   {2, "k", "u", text("<!DOCTYPE a><a/>"), verr.XMLError},
		"text instead of an element": {2, "k", "u", text("text"), verr.XMLError},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := domxml.SetMetadata(printed, c.kind, c.key, c.uri, c.value); !verr.Is(err, c.code) {
				t.Errorf("got %v, want code %d", err, c.code)
			}
		})
	}
}
