package ident

import "testing"

func TestOfIsTheSumOfTheText(t *testing.T) {
	// md5sum <<<"" of no bytes, and of a mount path, printed by md5sum(1).
	for text, want := range map[string]string{
		"": "d41d8cd9-8f00-b204-e980-0998ecf8427e",
		"/vmfs/volumes/4df5ca3a-5bfe9c1e-1d3a-001b21a7b7a0": "2eef2b7d-6604-3198-6869-202298a27d7b",
	} {
		if got := Of(text); got != want {
			t.Errorf("of %q it is %s, want %s", text, got, want)
		}
	}
}

func TestDiskReadsTheFormsOfHosts(t *testing.T) {
	const want = "6000c29b-dc49-d7f1-7153-c4d7f9171002"
	for _, text := range []string{
		"60 00 C2 9b dc 49 d7 f1-71 53 c4 d7 f9 17 10 02", "6000C29b-dc49-d7f1-7153-c4d7f9171002", "6000c29bdc49d7f17153c4d7f9171002",
	} {
		if got := Disk(text); got != want {
			t.Errorf("%q is read as %q", text, got)
		}
	}
	for _, text := range []string{"", "60 00", "zz 00 C2 9b dc 49 d7 f1-71 53 c4 d7 f9 17 10 02", want + "00"} {
		if got := Disk(text); got != "" {
			t.Errorf("%q is read as %q", text, got)
		}
	}
}
