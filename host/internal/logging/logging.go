// Package logging is a daemon's log in libvirt's terms: levels from 1 to 4, filters that give some sources another level, and several
// outputs at once, all of which can be replaced while the daemon runs, as virt-admin does it.
//
// A Log makes an hclog.Logger, whose messages go to it from all loggers that come from that one. A message is written if its level
// is at least that of the first filter that matches the logger's name, or the general level where none does, and then to each output
// whose own level it reaches.
//
// Each output has a goroutine and a bounded queue: a disk, a syslog daemon or a terminal that is stuck costs messages, which are
// counted and told later, and never time of the daemon. Flush and Close wait for the queues, within bounds. All methods are safe
// concurrently. A change that fails changes nothing.
//
// The forms of filters and outputs are those of libvirt's public documentation (https://libvirt.org/logging.html).
package logging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// closeTimeout bounds how long a closed output may take to write what waits.
const closeTimeout = 2 * time.Second

// Config is what a Log begins with.
type Config struct {
	// Name is the name of the first logger.
	Name string
	// Level is the general level.
	Level Level
	// Filters and Outputs are in force at first; no outputs mean Default.
	Filters Filters
	Outputs Outputs
	// Default is used whenever no output is asked for; without it that is stderr at the general level.
	Default Outputs
	// Stderr is written to by the output stderr; nil is the process's.
	Stderr io.Writer
}

// Log is a daemon's log.
type Log struct {
	logger   hclog.InterceptLogger
	fallback Outputs
	stderr   io.Writer

	// changing is held while outputs are opened and closed.
	changing sync.Mutex

	// mu guards what follows; a message holds it for reading.
	mu      sync.RWMutex
	level   Level
	filters Filters
	outputs Outputs
	open    []*sink
	// levels remembers the level of each logger's name, for the filters of now.
	levels sync.Map
}

// New opens the outputs.
func New(cfg Config) (*Log, error) {
	l := &Log{fallback: cfg.Default, stderr: cfg.Stderr, level: cfg.Level, filters: cfg.Filters}
	if l.stderr == nil {
		l.stderr = os.Stderr
	}
	if len(l.fallback) == 0 {
		l.fallback = Outputs{{Level: cfg.Level, Destination: Stderr}}
	}
	// The logger itself writes nowhere: it hands what is said to receiver.
	l.logger = hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: cfg.Name, Level: hclog.Off, Output: io.Discard})
	l.logger.RegisterSink(newReceiver(l))
	return l, l.replace(cfg.Outputs)
}

// Logger returns the logger of the name that New was given.
func (l *Log) Logger() hclog.Logger { return l.logger }

// SetLevel replaces the general level.
func (l *Log) SetLevel(level Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = level
	l.levels.Clear()
}

// Filters returns the filters in force.
func (l *Log) Filters() Filters {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.filters)
}

// SetFilters replaces the filters by those that the text says; no text removes them.
func (l *Log) SetFilters(text string) error {
	filters, err := ParseFilters(text)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filters = filters
	l.levels.Clear()
	return nil
}

// Outputs returns the outputs in force.
func (l *Log) Outputs() Outputs {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.outputs)
}

// SetOutputs opens the outputs that the text says and closes those of before; no text means the default. A file is opened again
// even if it was open, so that a log that was moved away is let go of.
func (l *Log) SetOutputs(text string) error {
	outputs, err := ParseOutputs(text)
	if err != nil {
		return err
	}
	return l.replace(outputs)
}

// replace opens outputs, puts them in force, and closes the old ones.
func (l *Log) replace(outputs Outputs) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	if len(outputs) == 0 {
		outputs = l.fallback
	}
	open := make([]*sink, 0, len(outputs))
	for _, o := range outputs {
		w, err := o.open(l.stderr)
		if err != nil {
			return errors.Join(err, closeAll(open))
		}
		open = append(open, newSink(o.Level, w))
	}
	l.mu.Lock()
	old := l.open
	l.outputs, l.open = outputs, open
	l.mu.Unlock()
	// Nobody writes to the old ones any more: a message in between would have held the lock.
	return closeAll(old)
}

func closeAll(sinks []*sink) error {
	errs := make([]error, len(sinks))
	var all sync.WaitGroup
	for i, s := range sinks {
		all.Go(func() { errs[i] = s.close(closeTimeout) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Flush waits until what was said before is written.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.RLock()
	open := slices.Clone(l.open)
	l.mu.RUnlock()
	var errs []error
	for _, s := range open {
		errs = append(errs, s.flush(ctx))
	}
	return errors.Join(errs...)
}

// Close writes what waits, for 2 seconds at most, and closes the outputs. What is said later is dropped.
func (l *Log) Close() error {
	l.changing.Lock()
	defer l.changing.Unlock()
	l.mu.Lock()
	old := l.open
	l.open = nil
	l.mu.Unlock()
	return closeAll(old)
}

// levelOf returns the level from which on a logger's messages are written. The lock is held for reading.
func (l *Log) levelOf(name string) Level {
	if v, ok := l.levels.Load(name); ok {
		if level, ok := v.(Level); ok {
			return level
		}
	}
	level := l.filters.levelOf(name, l.level)
	l.levels.Store(name, level)
	return level
}

// deliver writes a message to the outputs that it reaches.
func (l *Log) deliver(name string, level Level, format func() string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if level < l.levelOf(name) {
		return
	}
	var r record
	for _, s := range l.open {
		if level < s.level {
			continue
		}
		if r.text == "" {
			r = record{time: time.Now(), level: level, name: name, text: format()}
		}
		s.put(r)
	}
}

// receiver gets all that the loggers are told. hclog calls it with one message at a time.
type receiver struct {
	log    *Log
	buf    bytes.Buffer
	format hclog.SinkAdapter
}

func newReceiver(l *Log) *receiver {
	r := &receiver{log: l}
	r.format = hclog.NewSinkAdapter(&hclog.LoggerOptions{Level: hclog.Trace, Output: &r.buf, DisableTime: true})
	return r
}

// Accept implements hclog.SinkAdapter.
func (r *receiver) Accept(name string, level hclog.Level, msg string, args ...any) {
	r.log.deliver(name, levelFrom(level), func() string {
		r.buf.Reset()
		r.format.Accept(name, level, msg, args...)
		return plain(r.buf.String())
	})
}

// plain takes the level in brackets from the front of hclog's line, and the end of the line from its back.
func plain(line string) string {
	if _, rest, ok := strings.Cut(line, "]"); ok && strings.HasPrefix(line, "[") {
		line = strings.TrimLeft(rest, " ")
	}
	return strings.TrimSuffix(line, "\n")
}

// Level says how important a message is.
type Level int

// Levels, as libvirt numbers them. None is above all of them: nothing reaches it.
const (
	Debug   Level = 1
	Info    Level = 2
	Warning Level = 3
	Error   Level = 4
	None    Level = 5
)

// tags are the levels in the log's lines, all of one width.
var tags = map[Level]string{Debug: "[DEBUG]", Info: "[INFO] ", Warning: "[WARN] ", Error: "[ERROR]"}

// levelFrom reads hclog's level.
func levelFrom(l hclog.Level) Level {
	switch l {
	case hclog.Error:
		return Error
	case hclog.Warn:
		return Warning
	case hclog.Info:
		return Info
	case hclog.Trace, hclog.Debug, hclog.NoLevel, hclog.Off:
	}
	return Debug
}

// ParseLevel reads a word: trace and debug, info, warn, error, off.
func ParseLevel(word string) (Level, error) {
	l := hclog.LevelFromString(word)
	switch l {
	case hclog.NoLevel:
		return 0, fmt.Errorf("log level %q: use trace, debug, info, warn, error or off", word)
	case hclog.Off:
		return None, nil
	case hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error:
	}
	return levelFrom(l), nil
}

// parseLevel reads a digit.
func parseLevel(text string) (Level, error) {
	for l := Debug; l <= Error; l++ {
		if strings.TrimLeft(strings.TrimPrefix(text, "+"), "0") == string(rune('0'+l)) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("level %q: use 1 (debug), 2 (info), 3 (warning) or 4 (error)", text)
}
