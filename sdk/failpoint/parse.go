package failpoint

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of the grammar.
const (
	maxTerms = 256
	maxText  = 4096
	maxDelay = 24 * 60 * 60 * 1000 // milliseconds
	maxCode  = 110
	forever  = -1
	// exitStatus is EX_SOFTWARE of sysexits.h.
	exitStatus = 70
)

type action int

const (
	actionOff action = iota
	actionError
	actionPanic
	actionDelay
	actionHang
	actionExit
	actionKill
)

var actions = map[string]action{
	"off": actionOff, "error": actionError, "panic": actionPanic, "delay": actionDelay,
	"hang": actionHang, "exit": actionExit, "kill": actionKill,
}

// term is one link of a chain.
type term struct {
	action action
	count  int // times left, or forever
	text   string
	number int
	code   verr.Code
}

// split cuts "name=chain;name=chain", leaving semicolons within parentheses alone.
func split(text string) iter.Seq2[string, string] {
	return func(yield func(name, chain string) bool) {
		for rest := text; rest != ""; {
			var part string
			part, rest = cutOutside(rest, ";")
			if strings.TrimSpace(part) == "" {
				continue
			}
			name, chain, _ := strings.Cut(part, "=")
			if !yield(strings.TrimSpace(name), chain) {
				return
			}
		}
	}
}

// cutOutside cuts s at the first separator that is not within parentheses.
func cutOutside(s, separator string) (before, after string) {
	depth := 0
	for i := range len(s) {
		switch {
		case s[i] == '(':
			depth++
		case s[i] == ')' && depth > 0:
			depth--
		case depth == 0 && strings.HasPrefix(s[i:], separator):
			return s[:i], s[i+len(separator):]
		}
	}
	return s, ""
}

func parseChain(chain string) ([]term, error) {
	if len(chain) > maxText {
		return nil, fmt.Errorf("text of %d bytes, at most %d are possible", len(chain), maxText)
	}
	var terms []term
	for rest := strings.TrimSpace(chain); rest != ""; {
		var one string
		one, rest = cutOutside(rest, "->")
		t, err := parseTerm(strings.TrimSpace(one))
		if err != nil {
			return nil, fmt.Errorf("term %q: %w", one, err)
		}
		if len(terms) == maxTerms {
			return nil, fmt.Errorf("more than %d terms", maxTerms)
		}
		terms = append(terms, t)
	}
	for i := range terms {
		if terms[i].count == 0 {
			terms[i].count = 1
			if i == len(terms)-1 {
				terms[i].count = forever
			}
		}
	}
	return terms, nil
}

// parseTerm reads [COUNT*]ACTION[(ARGUMENT)]; the count is 0 if there is none.
func parseTerm(s string) (term, error) {
	var t term
	if digits, rest, ok := strings.Cut(s, "*"); ok && !strings.Contains(digits, "(") {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 {
			return t, errors.New("count is not a positive number")
		}
		t.count, s = n, rest
	}
	name, argument, has := strings.Cut(s, "(")
	if has {
		if !strings.HasSuffix(argument, ")") {
			return t, errors.New("no closing parenthesis")
		}
		argument = strings.TrimSuffix(argument, ")")
	}
	a, ok := actions[name]
	if !ok {
		return t, fmt.Errorf("unknown action %q", name)
	}
	t.action = a
	return t, t.setArgument(argument)
}

func (t *term) setArgument(argument string) error {
	switch t.action {
	case actionError:
		t.code, t.text = verr.Internal, argument
		if digits, text, ok := strings.Cut(argument, ":"); ok {
			if n, err := strconv.Atoi(digits); err == nil && n > 0 && n <= maxCode {
				t.code, t.text = verr.Code(n), text
			}
		}
		return nil
	case actionPanic:
		t.text = argument
		return nil
	case actionDelay:
		n, err := strconv.Atoi(argument)
		if err != nil || n < 0 || n > maxDelay {
			return errors.New("delay is not a number of milliseconds up to a day")
		}
		t.number = n
		return nil
	case actionExit:
		t.number = exitStatus
		if argument == "" {
			return nil
		}
		n, err := strconv.Atoi(argument)
		if err != nil || n < 0 || n > 255 {
			return errors.New("exit status is not a number up to 255")
		}
		t.number = n
		return nil
	default:
		if argument != "" {
			return errors.New("takes no argument")
		}
		return nil
	}
}
