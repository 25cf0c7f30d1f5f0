package logging

import (
	"fmt"
	"io"
	"log/syslog"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"
)

// record is one message, ready to be written.
type record struct {
	time  time.Time
	level Level
	// name is the logger's.
	name string
	// text has name, message and keys, without time and level.
	text string
	// flushed is closed when all records before this one are written; then it is no message.
	flushed chan<- struct{}
}

// writer writes records; it belongs to one goroutine.
type writer interface {
	write(record) error
	close() error
}

// textWriter writes lines.
type textWriter struct {
	out    io.Writer
	closer io.Closer
	buf    []byte
}

func (w *textWriter) write(r record) error {
	w.buf = fmt.Appendf(w.buf[:0], "%s %s %s\n", r.time.Format(hclog.TimeFormat), tags[r.level], r.text)
	if _, err := w.out.Write(w.buf); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

func (w *textWriter) close() error {
	if w.closer == nil {
		return nil
	}
	return w.closer.Close()
}

// syslogWriter sends messages to the machine's syslog daemon.
type syslogWriter struct {
	tag  string
	conn *syslog.Writer
}

func (w *syslogWriter) write(r record) error {
	if w.conn == nil {
		tag := w.tag
		if tag == "" {
			tag = filepath.Base(os.Args[0])
		}
		conn, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, tag)
		if err != nil {
			return fmt.Errorf("connect to syslog: %w", err)
		}
		w.conn = conn
	}
	switch r.level {
	case Error:
		return w.conn.Err(r.text)
	case Warning:
		return w.conn.Warning(r.text)
	case Info:
		return w.conn.Info(r.text)
	case Debug, None:
	}
	return w.conn.Debug(r.text)
}

func (w *syslogWriter) close() error {
	if w.conn == nil {
		return nil
	}
	return w.conn.Close()
}

// journaldWriter sends messages to systemd's journal.
type journaldWriter struct{}

// priorities are journald's.
var priorities = map[Level]journal.Priority{
	Debug: journal.PriDebug, Info: journal.PriInfo, Warning: journal.PriWarning, Error: journal.PriErr,
}

func (journaldWriter) write(r record) error {
	return journal.Send(r.text, priorities[r.level], map[string]string{
		"SYSLOG_IDENTIFIER": filepath.Base(os.Args[0]), "LIBVIRT_SOURCE": r.name,
	})
}

func (journaldWriter) close() error { return nil }
