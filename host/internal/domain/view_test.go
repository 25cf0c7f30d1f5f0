package domain

import "testing"

func TestListsBySnapshots(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags ListFlags
		has   bool
		want  bool
	}{
		{"one with snapshots among those that have some", ListHasSnapshot, true, true},
		{"one with snapshots among those without", ListNoSnapshot, true, false},
		{"one without among those that have some", ListHasSnapshot, false, false},
		{"one without among those without", ListNoSnapshot, false, true},
		{"either among both", ListHasSnapshot | ListNoSnapshot, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.flags.Match(&View{ID: -1, Snapshots: tt.has}); got != tt.want {
				t.Errorf("passes: %v, want %v", got, tt.want)
			}
		})
	}
}
