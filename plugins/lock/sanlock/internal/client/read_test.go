package client

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
)

// stateBytes is a state as the daemon sends it.
func stateBytes(kind, data32 uint32, data64 uint64, name, text string, rest ...[]byte) []byte {
	var b []byte
	for _, n := range []uint32{kind, 0, data32, 0} {
		b = endian.AppendUint32(b, n)
	}
	b = endian.AppendUint64(b, data64)
	b = appendText(b, name, MaxName)
	b = endian.AppendUint32(b, uint32(len(text)+1))
	b = append(b, 0, 0, 0, 0)
	b = append(append(b, text...), 0)
	return append(b, slices.Concat(rest...)...)
}

// sampleStatus has one part of each kind.
func sampleStatus() ([]byte, *Status) {
	lockspace := Lockspace{Name: "LS", HostID: 3, Disk: Disk{Path: "/ls", Offset: 1 << 20}}
	lease := Resource{Lockspace: "LS", Name: "a", Version: 5, Shared: true, Disks: []Disk{{Path: "/a"}, {Path: "/b", Offset: 9}}}
	text := slices.Concat(
		stateBytes(stateDaemon, 0, 0, "host", "our_host_name=host kill_grace_seconds=40 monotime=77"),
		stateBytes(stateClient, ^uint32(0), 0, "listener", "pid=-1"),
		stateBytes(stateClient, 12, 0, "guest", "pid=12 kill_count=2 cmd_active=7"),
		stateBytes(stateLockspace, 0, 3, "LS", "list=spaces io_timeout=10 killing_pids=1 corrupt_result=-223 renewal_last_result=-202 renewal_last_success=70",
			appendLockspace(nil, lockspace)),
		stateBytes(stateResource, 12, 5, "a", "list=held flags=1", appendPlacedResource(nil, lease)),
		stateBytes(99, 0, 0, "", "something new"),
	)
	return text, &Status{
		Now: 77, Grace: 40, Processes: []Process{{PID: 12, Name: "guest", Kills: 2, Active: true}},
		Lockspaces: []LockspaceStatus{{Lockspace: lockspace, List: ListJoined, IOTimeout: 10, Renewed: 70, Failed: true, Corrupt: -223, Result: -202}},
		Leases:     []LeaseStatus{{Resource: lease, List: ListHeld, PID: 12}},
	}
}

func TestStatusIsRead(t *testing.T) {
	text, want := sampleStatus()
	got := &Status{}
	if err := readStates(bytes.NewReader(text), got.add); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range text {
		whole := 0
		err := readStates(bytes.NewReader(text[:n]), func(*state) { whole++ })
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off after %d bytes: %v", n, err)
		}
		if err == nil && whole == 6 {
			t.Errorf("all read of the first %d bytes", n)
		}
	}
}

func TestStructuresHaveTheSizesOfC(t *testing.T) {
	for name, size := range map[string][2]int{
		"sm_header":       {len(message(header{}, nil)), 32},
		"sanlk_disk":      {len(appendDisk(nil, Disk{})), 1040},
		"sanlk_lockspace": {len(appendLockspace(nil, Lockspace{})), 1104},
		"sanlk_resource":  {len(appendResource(nil, Resource{})), 128},
		"sanlk_options":   {len(appendOptions(nil, "")), 56},
		"sanlk_host":      {hostSize, 32},
	} {
		if size[0] != size[1] {
			t.Errorf("%s has %d bytes, not %d", name, size[0], size[1])
		}
	}
}

func FuzzReadStates(f *testing.F) {
	text, _ := sampleStatus()
	f.Add(text)
	f.Add(text[:200])
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &Status{}
		if err := readStates(bytes.NewReader(text), s.add); err != nil {
			return
		}
		for _, l := range s.Leases {
			if len(l.Disks) > MaxDisks || len(l.Name) > MaxName {
				t.Errorf("read %+v", l)
			}
		}
	})
}

func FuzzReadOwners(f *testing.F) {
	answer := message(header{command: cmdReadOwners, data2: 2}, appendResource(nil, Resource{}))
	f.Add(append(answer, make([]byte, 2*hostSize)...))
	f.Add(message(header{command: cmdReadOwners, data: uint32(0xffffff00)}, nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		owners, err := readOwners(bytes.NewReader(text))
		if err == nil && len(text) < headerSize+resourceSize+len(owners)*hostSize {
			t.Errorf("read %d owners of %d bytes", len(owners), len(text))
		}
	})
}
