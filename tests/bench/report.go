package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// figure is one measured value.
type figure struct {
	what string
	// text is the value with its unit.
	text string
	// value grows with goodness if more is true, and with badness if not.
	value float64
	more  bool
	// cpu is the server's processor time for one call, or 0.
	cpu time.Duration
}

// result is what was measured of one target, in order.
type result struct {
	name    string
	figures []figure
}

func newResult(name string) *result { return &result{name: name} }

func (r *result) add(f figure) { r.figures = append(r.figures, f) }

// load adds the rate of a load and its percentiles.
func (r *result) load(what string, conns int, l load) {
	if conns == 1 {
		what += ", 1 connection"
	} else {
		what += fmt.Sprintf(", %d connections", conns)
	}
	r.add(figure{
		what: what, value: l.rate(), more: true, cpu: l.cpuPerCall(),
		text: fmt.Sprintf("%.0f/s (p50 %s, p99 %s)", l.rate(), short(l.percentile(0.5)), short(l.percentile(0.99))),
	})
}

// answer adds the median time of one call.
func (r *result) answer(what string, l load) {
	p50 := l.percentile(0.5)
	r.add(figure{what: what, text: short(p50), value: p50.Seconds(), cpu: l.cpuPerCall()})
}

// rate adds how many guests a second were handled.
func (r *result) rate(what string, l load) {
	r.add(figure{what: what, text: fmt.Sprintf("%.1f/s", l.rate()), value: l.rate(), more: true, cpu: l.cpuPerCall()})
}

func (r *result) time(what string, d time.Duration) {
	r.add(figure{what: what, text: short(d), value: d.Seconds()})
}

// costly adds a time and the processor time of the server in it.
func (r *result) costly(what string, d, cpu time.Duration) {
	r.add(figure{what: what, text: short(d), value: d.Seconds(), cpu: cpu})
}

// none adds what there is no figure for.
func (r *result) none(what, why string) { r.add(figure{what: what, text: why}) }

func (r *result) size(what string, mib float64) {
	r.add(figure{what: what, text: fmt.Sprintf("%.0f MiB", mib), value: mib})
}

// find returns the figure of a name.
func (r *result) find(what string) (figure, bool) {
	for _, f := range r.figures {
		if f.what == what {
			return f, true
		}
	}
	return figure{}, false
}

// middle makes one result of several of the same target: each figure is the one with the median value.
func middle(results []*result) *result {
	m := newResult(results[0].name)
	for _, what := range names(results) {
		var found []figure
		for _, r := range results {
			if f, ok := r.find(what); ok {
				found = append(found, f)
			}
		}
		slices.SortFunc(found, func(a, b figure) int { return cmp.Compare(a.value, b.value) })
		m.add(found[len(found)/2])
	}
	return m
}

// short prints a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0f µs", d.Seconds()*1e6)
}

// report prints the results side by side, with how many times better the first is than the second.
func report(results []*result) string {
	var b strings.Builder
	b.WriteString("| figure |")
	for _, r := range results {
		fmt.Fprintf(&b, " %s | its CPU a call |", r.name)
	}
	if len(results) == 2 {
		b.WriteString(" times better |")
	}
	fmt.Fprintf(&b, "\n|%s\n", strings.Repeat("---|", strings.Count(lastLine(b.String()), "|")-1))
	for _, what := range names(results) {
		fmt.Fprintf(&b, "| %s |", what)
		var found []figure
		for _, r := range results {
			f, ok := r.find(what)
			if !ok {
				b.WriteString(" - | - |")
				continue
			}
			found = append(found, f)
			cpu := "-"
			if f.cpu > 0 {
				cpu = short(f.cpu)
			}
			fmt.Fprintf(&b, " %s | %s |", f.text, cpu)
		}
		if len(results) == 2 {
			fmt.Fprintf(&b, " %s |", ratio(found))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// ratio says how many times better the first figure is.
func ratio(f []figure) string {
	if len(f) != 2 || f[0].value <= 0 || f[1].value <= 0 {
		return "-"
	}
	r := f[1].value / f[0].value
	if f[0].more {
		r = 1 / r
	}
	return fmt.Sprintf("%.2f", r)
}

// names lists the names of all figures in the order of the first result that has them.
func names(results []*result) []string {
	var order []string
	seen := map[string]bool{}
	for _, r := range results {
		for _, f := range r.figures {
			if !seen[f.what] {
				seen[f.what] = true
				order = append(order, f.what)
			}
		}
	}
	return order
}

// lastLine returns the last line of a text.
func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// machine describes the machine in a line.
func machine() string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "model name"); ok {
				model = strings.TrimLeft(name, "\t :")
				break
			}
		}
	}
	var uts unix.Utsname
	kernel := "unknown"
	if err := unix.Uname(&uts); err == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return fmt.Sprintf("%d CPUs of %s, Linux %s, %s; load %s before the first figure is not subtracted.",
		runtime.NumCPU(), model, kernel, runtime.Version(), loadAverage())
}

// loadAverage reads the machine's load over the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
