package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func ExampleSet_Hit() {
	points, err := failpoint.Parse("disk.write=2*off->1*error(38:disk is full)->off")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 4 {
		fmt.Println(points.Hit(context.Background(), "disk.write"))
	}
	// Output:
	// <nil>
	// <nil>
	// disk is full
	// <nil>
}

// hits says what a point does when it is passed some times.
func hits(t *testing.T, text string, times int) string {
	t.Helper()
	s, err := failpoint.Parse("p=" + text)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for range times {
		all = append(all, hit(s))
	}
	return strings.Join(all, " ")
}

func hit(s *failpoint.Set) (what string) {
	defer func() {
		if r := recover(); r != nil {
			what = "panic"
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // ends what hangs at once
	switch err := s.Hit(ctx, "p"); {
	case err == nil:
		return "-"
	case errors.Is(err, context.Canceled):
		return "hung"
	default:
		return err.Error()
	}
}

func TestChainsAreUsedUpInOrder(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "- - - -"},
		{"off", "- - - -"},
		{"error(x)", "x x x x"},
		{"1*error(x)", "x - - -"},
		{"2*off->error(x)", "- - x x"},
		{"error(x)->error(y)", "x y y y"},
		{"1*panic->hang", "panic hung hung hung"},
		{" 1*off -> 2*error(a->b) -> 1*off ", "- a->b a->b -"},
		{"1*delay(1000)->off", "hung - - -"},
	} {
		if got := hits(t, c.text, 4); got != c.want {
			t.Errorf("%q did %q, expected %q", c.text, got, c.want)
		}
	}
}

func TestErrorsCarryLibvirtsNumber(t *testing.T) {
	s, err := failpoint.Parse("p=1*error(55:not running)->error(plain: text)")
	if err != nil {
		t.Fatal(err)
	}
	if e := verr.From(s.Hit(context.Background(), "p")); e.Code != verr.OperationInvalid || e.Message != "not running" {
		t.Errorf("first error is %+v", e)
	}
	if e := verr.From(s.Hit(context.Background(), "p")); e.Code != verr.Internal || e.Message != "plain: text" {
		t.Errorf("second error is %+v", e)
	}
}

func TestSeveralPoints(t *testing.T) {
	s, err := failpoint.Parse("a=error(one;two); b=off ;;c=error(x)")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := s.Hit(ctx, "a"); err == nil || err.Error() != "one;two" {
		t.Errorf("a: %v", err)
	}
	if err := errors.Join(s.Hit(ctx, "b"), s.Hit(ctx, "unknown")); err != nil {
		t.Error(err)
	}
	if err := s.Set("c", ""); err != nil || s.Hit(ctx, "c") != nil {
		t.Errorf("c could not be disarmed: %v", err)
	}
	var none *failpoint.Set
	if !none.Empty() || none.Hit(ctx, "a") != nil {
		t.Error("no set does something")
	}
}

func TestWrongTextsAreRefused(t *testing.T) {
	for _, text := range []string{
		"p=explode", "p=error(x", "p=0*off", "p=-1*off", "p=x*off", "p=delay", "p=delay(-1)", "p=delay(99999999999)",
		"p=exit(256)", "p=hang(1)", "=off", "p=off->->off", "p=" + strings.Repeat("1*off->", 300) + "off",
	} {
		if _, err := failpoint.Parse(text); err == nil {
			t.Errorf("%.40q was accepted", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a=2*off->1*error(x)->panic(y);b=delay(1)->hang->exit(3)")
	f.Add("a=((;b=)")
	f.Fuzz(func(_ *testing.T, text string) {
		s, err := failpoint.Parse(text)
		if err == nil && s == nil {
			panic("neither a set nor an error")
		}
	})
}
