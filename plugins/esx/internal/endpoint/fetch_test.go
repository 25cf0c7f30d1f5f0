package endpoint_test

import (
	"net/url"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestFetchShowsThePasswordToWhomAsksForIt(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	e := open(t, configFor(s))
	screen := url.Values{"id": {"1"}}
	kind, data, err := e.Fetch(t.Context(), "/screen", screen, 1<<20)
	if err != nil || kind != "image/png" || len(data) < 8 {
		t.Errorf("fetched is %s of %d bytes, %v", kind, len(data), err)
	}
	_, _, err = e.Fetch(t.Context(), "/screen", screen, 7)
	tells(t, err, verr.Internal, "more than 7 bytes")
	_, _, err = e.Fetch(t.Context(), "/screen", nil, 1<<20)
	tells(t, err, verr.Internal, "/screen", "404")
	s.Gate.Hang()
	_, _, err = e.Fetch(t.Context(), "/screen", screen, 1<<20)
	tells(t, err, verr.OperationTimeout, s.Address())
	s.Gate.Open()
}

func TestCheckRefusesWhatOpenRefuses(t *testing.T) {
	for _, c := range []endpoint.Config{
		{}, {Name: "lab"}, {Name: "lab", Address: "h"}, {Name: "lab", Address: "h:x", User: "u"}, {Name: "lab", Address: "h", User: "u", Product: "x"},
	} {
		if err := c.Check(); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("%+v: error is %v", c, err)
		}
	}
	if err := (endpoint.Config{Name: "lab", Address: "h", User: "u"}).Check(); err != nil {
		t.Error(err)
	}
}
