package main

import (
	"strings"
	"testing"
	"time"
)

// TestRatioSaysHowManyTimesBetter holds the direction of the last column.
func TestRatioSaysHowManyTimesBetter(t *testing.T) {
	for name, tc := range map[string]struct {
		ours, theirs figure
		want         string
	}{
		"twice the rate is twice as good": {figure{value: 200, more: true}, figure{value: 100, more: true}, "2.00"},
		"half the time is twice as good":  {figure{value: 1}, figure{value: 2}, "2.00"},
		"nothing measured is no ratio":    {figure{}, figure{value: 2}, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ratio([]figure{tc.ours, tc.theirs}); got != tc.want {
				t.Errorf("ratio is %s, want %s", got, tc.want)
			}
		})
	}
}

// TestTheMiddleOfResultsHasTheMedianOfEachFigure holds that figures do not mix.
func TestTheMiddleOfResultsHasTheMedianOfEachFigure(t *testing.T) {
	var all []*result
	for _, d := range []time.Duration{3, 1, 2} {
		r := newResult("a")
		r.time("start", d*time.Second)
		r.time("end", (4-d)*time.Minute)
		all = append(all, r)
	}
	m := middle(all)
	for what, want := range map[string]float64{"start": 2, "end": 120} {
		if f, ok := m.find(what); !ok || f.value != want || len(m.figures) != 2 {
			t.Errorf("%s is %+v, want %v seconds", what, f, want)
		}
	}
}

// TestReportIsATable checks that every line of the table has as many cells as its head.
func TestReportIsATable(t *testing.T) {
	a, b := newResult("a"), newResult("b")
	a.time("start", time.Second)
	a.load("call", 1, load{calls: 2, took: time.Second, times: []time.Duration{1, 2}})
	b.time("start", 2*time.Second)
	a.none("lost", "all")
	for line := range strings.Lines(report([]*result{a, b})) {
		if got := strings.Count(line, "|"); got != 7 {
			t.Errorf("%d bars in %q, want 7", got, line)
		}
	}
}
