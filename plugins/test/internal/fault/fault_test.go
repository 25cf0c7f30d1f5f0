package fault_test

import (
	"context"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func definition(script string) string {
	return "<domain><metadata><lodge:test xmlns:lodge='" + fault.Namespace + "'>" + script + "</lodge:test></metadata></domain>"
}

func parse(t *testing.T, script string) fault.Script {
	t.Helper()
	s, err := fault.Parse(definition(script))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScriptSaysWhatGoesWrong(t *testing.T) {
	var book fault.Book
	s := parse(t, "<lodge:fail point='start' action='1*error(55:no)->off'/><lodge:guest does='crash' after='200'/>")
	if len(s.Acts) != 1 || s.Acts[0] != (fault.Act{Does: fault.Crash, After: 200}) {
		t.Errorf("acts are %+v", s.Acts)
	}
	if err := book.Note("u", s); err != nil {
		t.Fatal(err)
	}
	if err := book.Of("u").Hit(context.Background(), "start"); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("first pass: %v", err)
	}
	if err := book.Note("u", s); err != nil {
		t.Fatal(err)
	}
	if err := book.Of("u").Hit(context.Background(), "start"); err != nil {
		t.Errorf("the same script lost its count: %v", err)
	}
	if err := book.Note("u", parse(t, "")); err != nil {
		t.Fatal(err)
	}
	if !book.Of("u").Empty() {
		t.Error("a script that was taken away is still there")
	}
}

func TestDefinitionWithoutScript(t *testing.T) {
	for _, doc := range []string{"<domain/>", "<domain><description>" + fault.Namespace + "</description></domain>"} {
		if s, err := fault.Parse(doc); err != nil || len(s.Acts) != 0 {
			t.Errorf("%s: %+v, %v", doc, s, err)
		}
	}
}

func TestRefusesScriptsWithoutSense(t *testing.T) {
	for script, says := range map[string]string{
		"<lodge:fail point='strat' action='off'/>":                  "unknown point",
		"<lodge:fail point='start' action='explode'/>":              "unknown action",
		"<lodge:guest does='sing' after='1'/>":                      "cannot",
		"<lodge:guest does='crash' after='-1'/>":                    "after -1 ms",
		"<lodge:guest does='crash' after='x'/>":                     "faults",
		strings.Repeat("<lodge:guest does='crash' after='1'/>", 17): "at most",
	} {
		if _, err := fault.Parse(definition(script)); !verr.Is(err, verr.XMLError) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q", script, err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(definition("<lodge:fail point='start' action='1*error(55:no)->off'/><lodge:guest does='crash' after='200'/>"))
	f.Fuzz(func(t *testing.T, doc string) {
		s, err := fault.Parse(doc)
		if err != nil {
			return
		}
		var book fault.Book
		if err := book.Note("u", s); err != nil {
			t.Errorf("a script that was accepted cannot be used: %v", err)
		}
	})
}
