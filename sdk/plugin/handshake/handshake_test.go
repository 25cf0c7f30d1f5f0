package handshake

import (
	"errors"
	"strings"
	"testing"
)

func TestNegotiatePicksTheHighestVersionInCommon(t *testing.T) {
	for _, c := range []struct {
		offered string
		own     []int
		want    int
	}{
		{"1", []int{1}, 1},
		{"1,2,3", []int{1, 2}, 2},
		{" 2 ,1", []int{1, 2, 3}, 2},
		{"x,1,", []int{1}, 1},
		{"2", []int{1}, 0},
		{"", []int{1}, 0},
		{"-1,0", []int{-1, 0}, 0},
	} {
		got, err := Negotiate(c.offered, c.own)
		if got != c.want || (c.want == 0) != errors.Is(err, ErrVersion) {
			t.Errorf("%q with %v gave %d, %v", c.offered, c.own, got, err)
		}
	}
}

func TestCheckDirLeavesRoomForTheSockets(t *testing.T) {
	room := MaxSocketPath - len("/"+PluginSocket)
	for dir, ok := range map[string]bool{
		"/" + strings.Repeat("x", room-1): true,
		"/" + strings.Repeat("x", room):   false,
		"relative":                        false,
		"":                                false,
	} {
		if err := CheckDir(dir); (err == nil) != ok {
			t.Errorf("a path of %d bytes: %v", len(dir), err)
		}
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("1,2")
	f.Fuzz(func(t *testing.T, offered string) {
		if v, err := Negotiate(offered, []int{1, 2}); err == nil && v != 1 && v != 2 {
			t.Errorf("picked %d", v)
		}
	})
}
