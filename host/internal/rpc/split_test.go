package rpc

import (
	"bytes"
	"errors"
	"testing"
)

func TestSplitFindsFramesInWhatHasCome(t *testing.T) {
	with := sample
	with.Type = CallWithFDs
	for _, c := range []struct {
		name    string
		frame   []byte
		header  Header
		payload string
		fds     int
	}{
		{"a frame", AppendFrame(nil, sample, []byte("payload.")), sample, "payload.", 0},
		{"a frame without payload", AppendFrame(nil, sample, nil), sample, "", 0},
		{"a frame with descriptors", append(AppendFrameWithFDs(nil, with, []byte("payload."), 3), 0, 0, 0), with, "payload.", 3},
		{"a frame with no descriptors after all", AppendFrameWithFDs(nil, with, nil, 0), with, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for have := range len(c.frame) {
				f, _, size, err := Split(c.frame[:have])
				if size != 0 || err != nil {
					t.Fatalf("%d of %d bytes: %+v, %d, %v", have, len(c.frame), f, size, err)
				}
				// Reading what is missing never takes from the next frame.
				if n := Missing(c.frame[:have]); n < 1 || have+n > len(c.frame) {
					t.Errorf("%d of %d bytes: %d are missing", have, len(c.frame), n)
				}
			}
			both := append(bytes.Clone(c.frame), c.frame...)
			f, fds, size, err := Split(both)
			if err != nil || f.Header != c.header || string(f.Payload) != c.payload || fds != c.fds || size != len(c.frame) {
				t.Errorf("%+v with %d descriptors and %d bytes: %v", f, fds, size, err)
			}
			if n := Missing(both); n != 0 {
				t.Errorf("%d bytes are missing of two frames", n)
			}
		})
	}
}

func TestSplitRefusesWhatIsNoFrame(t *testing.T) {
	with := sample
	with.Type = ReplyWithFDs
	for name, b := range map[string][]byte{
		"a length below the header":             {0, 0, 0, 27},
		"a length above the limit":              {0xff, 0, 0, 0},
		"descriptors without a count":           AppendFrame(nil, with, nil),
		"more descriptors than a frame carries": AppendFrameWithFDs(nil, with, nil, MaxFDs+1),
	} {
		if f, _, size, err := Split(b); !errors.Is(err, ErrFrame) || Missing(b) != 0 {
			t.Errorf("%s: %+v, %d bytes, %v", name, f, size, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(AppendFrame(nil, sample, []byte("payload.")))
	f.Add([]byte{0, 0, 0, 33, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, fds, size, err := Split(b)
		if size < 0 || size > len(b) || fds < 0 || fds > MaxFDs || (err != nil && size != 0) {
			t.Fatalf("%d descriptors, %d bytes of %d, %v", fds, size, len(b), err)
		}
		if n := Missing(b); n < 0 || (n > 0) != (size == 0 && err == nil) {
			t.Fatalf("%d bytes are missing", n)
		}
	})
}
