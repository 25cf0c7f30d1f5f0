package dog

import (
	"slices"
	"strings"
	"testing"
)

func TestRoomOfAllVersions(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Room
	}{
		"0.3 to 0.5": {"0 1000 400 40%\n1 500 100 20%\nTotal 1500 500 33% 2048\n", Room{1500, 500, 1000}},
		"from 0.6":   {"0 1000 400 600 40%\nTotal 1000 400 600 40% 4398345112385\n", Room{1000, 400, 600}},
		"empty":      {"0 78046982144 0 78046982144 0%\nTotal 78046982144 0 78046982144 0% 0\n", Room{78046982144, 0, 78046982144}},
	} {
		if got, err := parseRoom(c.text); err != nil || got != c.want {
			t.Errorf("%s: %v, error %v, want %v", name, got, err, c.want)
		}
	}
	for _, text := range []string{"", "Total\n", "Total a b c d e\n", "0 1 2 3%\n", "Total 1 2 0 100% 0\n"} {
		if got, err := parseRoom(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestImagesOfAllVersions(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []Image
	}{
		"0.3": {
			"s test 1 10 0 0 1336556634 7c2b25\n= test 2 10 4 0 1336557216 7c2b27\n",
			[]Image{{"test", "1", "", 10, 0, 1336556634}, {"test", "", "", 10, 4, 1336557216}},
		},
		"0.4": {"s a 1 10 0 0 5 7c2b25 tag\nc b 1 10 0 0 6 7c2b27 \n", []Image{{"a", "1", "tag", 10, 0, 5}, {"b", "", "", 10, 0, 6}}},
		"0.5": {"s a 1 10 0 0 5 7c2b25 3 tag\n= b 1 10 0 0 6 7c2b27 3 \n", []Image{{"a", "1", "tag", 10, 0, 5}, {"b", "", "", 10, 0, 6}}},
		"0.9": {"= a 0 10 0 0 5 7c2b25 4:2 \n", []Image{{"a", "", "", 10, 0, 5}}},
		"1.0": {
			"= with\\ space 0 4194304 0 0 1 eceaa7 2  22\ns back\\\\slash 2 4 3 2 1 e 2 tag 22\nc = 0 1 0 1 1 e 2  22\n",
			[]Image{{"with space", "", "", 4194304, 0, 1}, {`back\slash`, "2", "tag", 4, 3, 1}, {"=", "", "", 1, 0, 1}},
		},
		"nothing": {"", nil},
	} {
		if got, odd := parseImages(c.text); !slices.Equal(got, c.want) || len(odd) > 0 {
			t.Errorf("%s: %+v, want %+v; odd are %q", name, got, c.want, odd)
		}
	}
	odd := []string{"x a 0 1 0 0 1 e", "= a", "=", "= a 0 x 0 0 1 e", "= a 0 1 0 0 x e", "= a\\", "=  0 1 0 0 1 e", "  Name        Id    Size"}
	if got, bad := parseImages(strings.Join(odd, "\n")); len(got) > 0 || !slices.Equal(bad, odd) {
		t.Errorf("images %+v, odd %q", got, bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("= with\\ space 0 4194304 0 0 1 eceaa7 2  22\n")
	f.Add("Total 1000 400 600 40% 4398345112385\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := parseImages(text)
		for _, i := range all {
			if i.Name == "" || i.Size > 1<<63 {
				t.Errorf("%q has image %+v", text, i)
			}
		}
		if r, err := parseRoom(text); err == nil && (r.Allocation > r.Capacity || r.Available > r.Capacity) {
			t.Errorf("%q is %v", text, r)
		}
	})
}
