package qmp

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestReadLineKeepsItsBound(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     string
		err      error
	}{
		{name: "a short line", in: "ab\r\ncd", want: "ab"},
		{name: "a line of the bound", in: strings.Repeat("x", 99) + "\n", want: strings.Repeat("x", 99)},
		{name: "a longer line", in: strings.Repeat("x", 100) + "\n", err: ErrProtocol},
		{name: "an endless line", in: strings.Repeat("x", 1000), err: ErrProtocol},
		{name: "a broken line", in: "half", err: ErrGone},
		{name: "nothing", in: "", err: ErrGone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := readLine(bufio.NewReaderSize(strings.NewReader(tc.in), 16), 100)
			if string(got) != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}` + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": 18446744073709551616}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(data), 16)
		for {
			line, err := readLine(in, 1<<10)
			if err != nil {
				if !errors.Is(err, ErrGone) && !errors.Is(err, ErrProtocol) {
					t.Fatalf("reading ended with %v", err)
				}
				return
			}
			m, err := decode(line)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("decoding ended with %v", err)
				}
				continue
			}
			if m.Greeting == nil && m.Event == "" {
				_, _ = m.replyID()
			}
			_ = m.time()
		}
	})
}
