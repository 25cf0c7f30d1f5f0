package logging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/logging"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		os.Exit(talk())
	}
	goleak.VerifyTestMain(m)
}

// buffer is a stderr that tests can read.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was written since the last time.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func open(t *testing.T, cfg logging.Config) (*logging.Log, *buffer) {
	t.Helper()
	out := &buffer{}
	cfg.Stderr, cfg.Name = out, "locking"
	l, err := logging.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, out
}

func flush(t *testing.T, l *logging.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// say logs one message of each level.
func say(log hclog.Logger) {
	log.Debug("debug")
	log.Info("info")
	log.Warn("warn")
	log.Error("error")
}

// words are the messages of a log, without what stands around them.
func words(text string) string {
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		out = append(out, line[strings.LastIndex(line, " ")+1:])
	}
	return strings.Join(out, " ")
}

func TestWhatIsWritten(t *testing.T) {
	for _, c := range []struct {
		level            logging.Level
		filters, outputs string
		logger, want     string
	}{
		{logging.Warning, "", "", "", "warn error"},
		{logging.Debug, "", "", "", "debug info warn error"},
		{logging.None, "", "1:stderr", "", ""},
		{logging.Debug, "", "4:stderr", "", "error"},
		{logging.Warning, "", "1:stderr", "", "warn error"},
		{logging.Warning, "1:locking", "1:stderr", "", "debug info warn error"},
		{logging.Warning, "1:rpc", "1:stderr", "", "warn error"},
		{logging.Warning, "1:rpc", "1:stderr", "rpc", "debug info warn error"},
		{logging.Warning, "1:locking.r?c", "1:stderr", "rpc", "debug info warn error"},
		{logging.Warning, "1:[q-s]pc", "1:stderr", "rpc", "debug info warn error"},
		{logging.Warning, "1:[rpc", "1:stderr", "rpc", "warn error"},
		{logging.Debug, "4:rpc 1:locking", "1:stderr", "rpc", "error"},
		{logging.Debug, "1:locking 4:rpc", "1:stderr", "rpc", "debug info warn error"},
		{logging.Debug, "3:*", "1:stderr", "rpc", "warn error"},
	} {
		t.Run(fmt.Sprintf("level %d filters %q outputs %q logger %q", c.level, c.filters, c.outputs, c.logger), func(t *testing.T) {
			l, out := open(t, logging.Config{Level: c.level, Default: logging.Outputs{{Level: logging.Debug, Destination: logging.Stderr}}})
			if err := errors.Join(l.SetFilters(c.filters), l.SetOutputs(c.outputs)); err != nil {
				t.Fatal(err)
			}
			log := l.Logger()
			if c.logger != "" {
				log = log.Named(c.logger)
			}
			say(log)
			flush(t, l)
			if got := words(out.take()); got != c.want {
				t.Errorf("written %q, want %q", got, c.want)
			}
		})
	}
}

func TestLinesHaveTimeLevelNameAndKeys(t *testing.T) {
	l, out := open(t, logging.Config{Level: logging.Debug})
	l.Logger().Named("rpc").With("peer", 7).Warn("call failed", "error", errors.New("it broke"), "proc", 3)
	flush(t, l)
	line := out.take()
	when, rest, _ := strings.Cut(line, " ")
	if _, err := time.Parse(hclog.TimeFormat, when); err != nil {
		t.Errorf("time of %q: %v", line, err)
	}
	if want := "[WARN]  locking.rpc: call failed: peer=7 error=\"it broke\" proc=3\n"; rest != want {
		t.Errorf("line %q, want %q", rest, want)
	}
}

func TestChangesTakeEffectAtOnceForAllLoggers(t *testing.T) {
	l, out := open(t, logging.Config{Level: logging.Error})
	log := l.Logger().Named("rpc")
	say(log)
	l.SetLevel(logging.Info)
	if err := l.SetOutputs("1:stderr"); err != nil {
		t.Fatal(err)
	}
	say(log)
	if err := l.SetFilters("3:rpc"); err != nil {
		t.Fatal(err)
	}
	say(log)
	if err := l.SetFilters(" "); err != nil {
		t.Fatal(err)
	}
	say(log)
	flush(t, l)
	if got, want := words(out.take()), "error info warn error warn error info warn error"; got != want {
		t.Errorf("written %q, want %q", got, want)
	}
	if got := l.Filters().String(); got != "" {
		t.Errorf("filters %q", got)
	}
}

func TestSeveralOutputsAtOnce(t *testing.T) {
	dir := t.TempDir()
	l, out := open(t, logging.Config{Level: logging.Debug})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := l.SetOutputs("1:file:" + a + " 3:file:" + b + " 4:stderr"); err != nil {
		t.Fatal(err)
	}
	say(l.Logger())
	flush(t, l)
	for got, want := range map[string]string{read(t, a): "debug info warn error", read(t, b): "warn error", out.take(): "error"} {
		if words(got) != want {
			t.Errorf("written %q, want %q", words(got), want)
		}
	}
	st, err := os.Stat(a)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", st.Mode(), err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFileIsOpenedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _ := open(t, logging.Config{Level: logging.Debug})
	set := func() {
		t.Helper()
		if err := l.SetOutputs("1:file:" + path); err != nil {
			t.Fatal(err)
		}
	}
	set()
	l.Logger().Info("first")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	set()
	l.Logger().Info("second")
	flush(t, l)
	if one, two := words(read(t, path+".1")), words(read(t, path)); one != "first" || two != "second" {
		t.Errorf("old log %q, new log %q", one, two)
	}
}

func TestChangeThatFailsChangesNothing(t *testing.T) {
	l, out := open(t, logging.Config{Level: logging.Info})
	if err := l.SetFilters("4:rpc"); err != nil {
		t.Fatal(err)
	}
	before := l.Outputs().String()
	for _, text := range []string{"1:file:" + filepath.Join(t.TempDir(), "none/log"), "1:stderr 9:stderr"} {
		if err := l.SetOutputs(text); err == nil {
			t.Errorf("outputs %q are accepted", text)
		}
	}
	if err := l.SetFilters("1:a 9:b"); err == nil {
		t.Error("bad filters are accepted")
	}
	if l.Outputs().String() != before || l.Filters().String() != "4:*rpc*" {
		t.Errorf("now outputs %q filters %q", l.Outputs(), l.Filters())
	}
	say(l.Logger())
	flush(t, l)
	if got := words(out.take()); got != "info warn error" {
		t.Errorf("written %q", got)
	}
}

// stuck is an output that takes nothing until it is let go.
type stuck struct {
	release chan struct{}
	buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	return s.buffer.Write(p)
}

func TestOutputThatIsStuckCostsNoTimeAndSaysWhatWasLost(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	l, err := logging.New(logging.Config{Level: logging.Debug, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	const all = 5000
	for i := range all {
		l.Logger().Info("message", "n", i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush of a stuck output: %v", err)
	}
	close(out.release)
	flush(t, l)
	l.Logger().Info("after")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	text := out.take()
	lines, lost := strings.Count(text, "message: n="), 0
	for _, line := range strings.Split(text, "\n") {
		if _, count, ok := strings.Cut(line, "messages were lost here: count="); ok {
			var n int
			if _, err := fmt.Sscan(count, &n); err != nil {
				t.Fatal(err)
			}
			lost += n
		}
	}
	if lost == 0 || lines+lost != all || !strings.Contains(text, "after") {
		t.Errorf("%d lines and %d lost of %d", lines, lost, all)
	}
}

func TestCloseLeavesAStuckOutputAlone(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	l, err := logging.New(logging.Config{Level: logging.Debug, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	l.Logger().Info("message")
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("close of a stuck output: %v", err)
	}
	l.Logger().Info("said after the end")
	close(out.release)
}

func TestOutputsCanBeReplacedWhileAllTalk(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, logging.Config{Level: logging.Debug, Default: logging.Outputs{{Level: 1, Destination: logging.File, Target: filepath.Join(dir, "0")}}})
	const talkers, messages = 4, 500
	var all sync.WaitGroup
	for n := range talkers {
		all.Go(func() {
			log := l.Logger().Named(fmt.Sprint(n))
			for range messages {
				log.Info("message")
				if err := l.SetFilters("1:nobody"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 20 {
		if err := l.SetOutputs(fmt.Sprintf("1:file:%s/%d", dir, n)); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	flush(t, l)
	lines := 0
	for n := range 20 {
		if text, err := os.ReadFile(fmt.Sprintf("%s/%d", dir, n)); err == nil {
			lines += strings.Count(string(text), "message\n")
			if strings.Contains(string(text), "lost") {
				t.Skip("the machine is too busy to write what is said")
			}
		}
	}
	if lines != talkers*messages {
		t.Errorf("%d lines of %d messages", lines, talkers*messages)
	}
}

func TestChoice(t *testing.T) {
	if _, err := os.Stat("/run/systemd/journal/socket"); err == nil {
		t.Skip("there is a journal")
	}
	file := filepath.Join(t.TempDir(), "deep/log")
	for want, c := range map[string]logging.Choice{
		"3:stderr":       {Level: logging.Warning, File: file},
		"2:file:" + file: {Level: logging.Info, Background: true, File: file, FolderMode: 0o700},
	} {
		got, err := c.Outputs()
		if err != nil || got.String() != want {
			t.Errorf("%+v: %q, error %v, want %q", c, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		t.Error(err)
	}
}

func TestParseLevel(t *testing.T) {
	for word, want := range map[string]logging.Level{
		"trace": logging.Debug, "debug": logging.Debug, "info": logging.Info, "warn": logging.Warning, "error": logging.Error, "off": logging.None,
	} {
		if got, err := logging.ParseLevel(word); err != nil || got != want {
			t.Errorf("%q is %d, error %v", word, got, err)
		}
	}
	if _, err := logging.ParseLevel("loud"); err == nil {
		t.Error("a level that there is not was accepted")
	}
}
