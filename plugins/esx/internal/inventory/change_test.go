package inventory

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	uuidA = "11111111-1111-1111-1111-111111111111"
	uuidB = "22222222-2222-2222-2222-222222222222"
)

func machine(ref, uuid, name string, power types.VirtualMachinePowerState) VM {
	return VM{Ref: types.ManagedObjectReference{Type: machineType, Value: ref}, UUID: uuid, Name: name, Power: power}
}

func snapshotOf(machines ...VM) *Snapshot {
	all := map[types.ManagedObjectReference]VM{}
	for _, vm := range machines {
		all[vm.Ref] = vm
	}
	return newSnapshot(all)
}

func spelled(changes []Change) string {
	var words []string
	for _, c := range changes {
		word := string(c.Kind)
		for _, e := range c.Events {
			word += fmt.Sprintf(" %s:%d/%d", e.Name, e.Lifecycle.Event, e.Lifecycle.Detail)
		}
		words = append(words, word)
	}
	return strings.Join(words, "; ")
}

func TestDifferencesAreSpelledInOrder(t *testing.T) {
	booted := func(at int64) VM {
		vm := machine("1", uuidA, "a", on)
		vm.Boot = at
		return vm
	}
	for name, test := range map[string]struct {
		from, to *Snapshot
		want     string
	}{
		"nothing":            {snapshotOf(booted(1)), snapshotOf(booted(1)), ""},
		"running comes":      {snapshotOf(), snapshotOf(machine("1", uuidA, "a", on)), "added a:0/0 a:2/0"},
		"suspended comes":    {snapshotOf(), snapshotOf(machine("1", uuidA, "a", suspended)), "added a:0/0 a:2/0 a:3/0"},
		"running goes":       {snapshotOf(machine("1", uuidA, "a", on)), snapshotOf(), "removed a:5/0 a:1/0"},
		"suspended to off":   {snapshotOf(machine("1", uuidA, "a", suspended)), snapshotOf(machine("1", uuidA, "a", off)), "changed a:5/0"},
		"off to suspended":   {snapshotOf(machine("1", uuidA, "a", off)), snapshotOf(machine("1", uuidA, "a", suspended)), "changed a:2/0 a:3/0"},
		"power cycle":        {snapshotOf(booted(1)), snapshotOf(booted(2)), "changed a:5/0 a:2/0"},
		"boot becomes known": {snapshotOf(booted(0)), snapshotOf(booted(2)), "changed"},
		"reference used for another": {
			snapshotOf(machine("1", uuidA, "a", off)), snapshotOf(machine("1", uuidB, "b", off)), "removed a:1/0; added b:0/0",
		},
		"registered anew": {
			snapshotOf(machine("1", uuidA, "a", off)), snapshotOf(machine("2", uuidA, "a", off)), "removed a:1/0; added a:0/0",
		},
		"names swapped": {
			snapshotOf(machine("1", uuidA, "a", off), machine("2", uuidB, "b", off)),
			snapshotOf(machine("1", uuidA, "b", off), machine("2", uuidB, "a", off)),
			"changed a:1/1 b:0/2; changed b:1/1 a:0/2",
		},
	} {
		if got := spelled(diff(test.from, test.to)); got != test.want {
			t.Errorf("%s: told is %q, want %q", name, got, test.want)
		}
	}
}

func TestCopiesWithOneUUIDOrNameAreFoundWithoutChance(t *testing.T) {
	for range 20 {
		s := snapshotOf(machine("vm-2", uuidA, "a", on), machine("vm-1", uuidA, "a", on), machine("vm-3", "", "c", on))
		byUUID, _ := s.UUID(uuidA)
		byName, _ := s.Name("a")
		if byUUID.Ref.Value != "vm-1" || byName.Ref.Value != "vm-1" || len(s.All()) != 2 || s.Unidentified != 1 {
			t.Fatalf("found are %v and %v of %+v", byUUID, byName, s)
		}
	}
}

func TestDomainIDIsTheNumberInTheReference(t *testing.T) {
	for ref, want := range map[string]int32{"12": 12, "vm-34": 34, "vm-": -1, "0": -1, "vm-x": -1, "99999999999": -1} {
		if got := machine(ref, uuidA, "a", suspended).DomainID(); got != want {
			t.Errorf("ID of %q is %d, want %d", ref, got, want)
		}
	}
	if got := machine("12", uuidA, "a", off).DomainID(); got != -1 {
		t.Errorf("ID of a machine that is off is %d", got)
	}
}

// update is one update of a machine; values alternate with the names of properties.
func update(kind types.ObjectUpdateKind, namesAndValues ...any) types.ObjectUpdate {
	u := types.ObjectUpdate{Obj: types.ManagedObjectReference{Type: machineType, Value: "1"}, Kind: kind}
	for i := 0; i < len(namesAndValues); i += 2 {
		u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: namesAndValues[i].(string), Val: namesAndValues[i+1]})
	}
	return u
}

func TestMachineIsLeftOutUntilItIsIdentifiedAndKeepsWhatItWas(t *testing.T) {
	r := newReading(nil)
	take := func(u types.ObjectUpdate) []VM {
		t.Helper()
		if err := r.one(u); err != nil {
			t.Fatal(err)
		}
		return r.snapshot().All()
	}
	if all := take(update(types.ObjectUpdateKindEnter, "name", "a", "config.uuid", nil)); len(all) != 0 {
		t.Errorf("without a UUID there is %+v", all)
	}
	all := take(update(types.ObjectUpdateKindModify, "config.uuid", strings.ToUpper(uuidA), bootTime, time.Unix(0, 7)))
	want := machine("1", uuidA, "a", "")
	want.Boot = 7
	if diff := cmp.Diff([]VM{want}, all); diff != "" {
		t.Error(diff)
	}
	want.Boot, want.Connection = 0, types.VirtualMachineConnectionStateInaccessible
	all = take(update(types.ObjectUpdateKindModify, "config.uuid", nil, bootTime, nil, "runtime.connectionState", want.Connection, "else", 1))
	if diff := cmp.Diff([]VM{want}, all); diff != "" {
		t.Error(diff)
	}
	if all := take(update(types.ObjectUpdateKindLeave)); len(all) != 0 {
		t.Errorf("after it left there is %+v", all)
	}
}

func TestValueOfAnotherTypeIsAnError(t *testing.T) {
	for _, values := range [][]any{{"name", 1}, {"config.uuid", 1}, {"runtime.host", "h"}, {bootTime, "x"}, {"config.hardware.numCPU", "2"}} {
		err := newReading(nil).one(update(types.ObjectUpdateKindEnter, values...))
		if err == nil || !strings.Contains(err.Error(), values[0].(string)) {
			t.Errorf("%v: error is %v", values, err)
		}
	}
}
