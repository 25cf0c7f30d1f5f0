package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Exit statuses of iscsiadm(8) that are told apart.
const (
	noSession     = 2
	timedOut      = 8
	noTransport   = 12
	sessionExists = 15
	noDaemon      = 20
	noObjects     = 21
	notInSysfs    = 22
	denied        = 24
)

// hints say what to do about an exit status.
var hints = map[int]string{
	timedOut:    "the target does not answer",
	noTransport: "this kernel has no iSCSI: is the module iscsi_tcp there?",
	noDaemon:    "iscsid does not run, or this kernel has no iSCSI",
	denied:      "the target does not let this initiator in",
}

func (p *Pools) program() string {
	if name := p.Settings().Program; name != "" {
		return name
	}
	return "iscsiadm"
}

// output runs iscsiadm, for no longer than is set.
func (p *Pools) output(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Settings().Timeout)
	defer cancel()
	text, err := command.Output(ctx, p.program(), args...)
	return text, explain(err)
}

// explain has the words of iscsiadm on one line, without those of the programs that it runs, and before them what its status means.
func explain(err error) error {
	var e *command.Error
	if !errors.As(err, &e) {
		return err
	}
	const own = "iscsiadm: "
	var lines []string
	for line := range strings.Lines(e.Words) {
		if line, ok := strings.CutPrefix(strings.TrimSpace(line), own); ok && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	short := &command.Error{Program: e.Program, Status: e.Status, Words: strings.Join(lines, "; ")}
	if len(lines) == 0 {
		short.Words = strings.Join(strings.Fields(e.Words), " ")
	}
	hint := hints[e.Status]
	if hint == "" && strings.Contains(e.Words, "Could not insert module") {
		hint = hints[noTransport]
	}
	if hint == "" {
		return short
	}
	return fmt.Errorf("%s: %w", hint, short)
}

func (p *Pools) run(ctx context.Context, args ...string) error {
	_, err := p.output(ctx, args...)
	return err
}

// status is iscsiadm's exit status, or -1 if it did not end by itself.
func status(err error) int {
	var e *command.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return -1
}

// code is libvirt's for a run that failed.
func code(err error) verr.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded), status(err) == timedOut:
		return verr.OperationTimeout
	case errors.Is(err, context.Canceled):
		return verr.OperationAborted
	case status(err) == denied:
		return verr.AuthFailed
	}
	return verr.OperationFailed
}

// failed says what could not be done at a target.
func failed(pool *define.Pool, what string, err error) error {
	return verr.New(code(err), "cannot %s at iSCSI target '%s' at %s: %w", what, pool.Target(), pool.Portal(), err).In(verr.FromStorage)
}

// parseTargets reads the list of a discovery, a line "address:port,group name" for each portal of each target; each target once.
func parseTargets(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 2 && strings.Contains(words[0], ":") && !slices.Contains(all, words[1]) {
			all = append(all, words[1])
		}
	}
	return all
}
