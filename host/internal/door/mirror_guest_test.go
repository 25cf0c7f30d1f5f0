package door

import (
	"bytes"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/domain"
)

func TestSnapshotLists(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openURI(b.ro, mirrorURI)
	of := func(t *testing.T, list []libvirt.DomainSnapshot, ret int32) string {
		t.Helper()
		names := make([]string, len(list))
		for i, one := range list {
			if names[i] = one.Name; one.Dom != runs {
				t.Errorf("snapshot %q of %+v", one.Name, one.Dom)
			}
		}
		if int(ret) != len(list) {
			t.Errorf("%d snapshots are said to be %d", len(list), ret)
		}
		return strings.Join(names, " ")
	}
	for _, tt := range []struct {
		below string
		flags uint32
		want  string
	}{
		{"", 0, "root mid leaf side other last"},
		{"", listRoots, "root other"},
		{"", listLeaves, "leaf side last"},
		{"", listNoLeaves, "root mid other"},
		{"", listLeaves | listNoLeaves, "root mid leaf side other last"},
		{"", listMetadata, ""},
		{"", listNoMetadata, "root mid leaf side other last"},
		{"", listInactive, "root last"},
		{"", listActive, "mid leaf other"},
		{"", listDiskOnly, "side"},
		{"", listDiskOnly | listInactive, "root side last"},
		{"", listInternal, "root mid leaf side other last"},
		{"", listExternal, ""},
		{"", listTopological | listRoots | listInactive, "root"},
		{"root", 0, "mid side"},
		{"root", listDescendants, "mid leaf side"},
		{"root", listDescendants | listLeaves, "leaf side"},
		{"mid", 0, "leaf"},
		{"mid", listDescendants | listTopological, "leaf"},
		{"other", listActive, ""},
		{"leaf", listDescendants, ""},
	} {
		if tt.below == "" {
			var all libvirt.DomainListAllSnapshotsRet
			c.must(procDomainListAllSnapshots, &libvirt.DomainListAllSnapshotsArgs{Dom: runs, NeedResults: 1, Flags: tt.flags}, &all)
			var n libvirt.DomainSnapshotNumRet
			c.must(procDomainSnapshotNum, &libvirt.DomainSnapshotNumArgs{Dom: runs, Flags: tt.flags}, &n)
			var names libvirt.DomainSnapshotListNamesRet
			c.must(procDomainSnapshotListNames, &libvirt.DomainSnapshotListNamesArgs{Dom: runs, Maxnames: 16, Flags: tt.flags}, &names)
			if got, again := of(t, all.Snapshots, n.Num), strings.Join(names.Names, " "); got != tt.want || again != tt.want {
				t.Errorf("flags %d list %q, names %q, want %q", tt.flags, got, again, tt.want)
			}
			continue
		}
		var all libvirt.DomainSnapshotListAllChildrenRet
		c.must(procDomainSnapshotListAllChildren, &libvirt.DomainSnapshotListAllChildrenArgs{Snapshot: snap(tt.below), NeedResults: 1, Flags: tt.flags}, &all)
		var n libvirt.DomainSnapshotNumChildrenRet
		c.must(procDomainSnapshotNumChildren, &libvirt.DomainSnapshotNumChildrenArgs{Snap: snap(tt.below), Flags: tt.flags}, &n)
		var names libvirt.DomainSnapshotListChildrenNamesRet
		c.must(procDomainSnapshotListChildrenNames, &libvirt.DomainSnapshotListChildrenNamesArgs{Snap: snap(tt.below), Maxnames: 16, Flags: tt.flags}, &names)
		if got, again := of(t, all.Snapshots, n.Num), strings.Join(names.Names, " "); got != tt.want || again != tt.want {
			t.Errorf("below %s flags %d list %q, names %q, want %q", tt.below, tt.flags, got, again, tt.want)
		}
	}
}

func TestSnapshotsOverTheWire(t *testing.T) {
	made := libvirt.DomainSnapshot{Name: "made", Dom: runs}
	testAnswers(t, []answered{
		{"a count of a list", procDomainListAllSnapshots, &libvirt.DomainListAllSnapshotsArgs{Dom: runs}, &libvirt.DomainListAllSnapshotsRet{Ret: 6}, ""},
		{"two names", procDomainSnapshotListNames, &libvirt.DomainSnapshotListNamesArgs{Dom: runs, Maxnames: 2}, &libvirt.DomainSnapshotListNamesRet{Names: []string{"root", "mid"}}, ""},
		{"a guest without the ability", procDomainSnapshotNum, &libvirt.DomainSnapshotNumArgs{Dom: bare}, &libvirt.DomainSnapshotNumRet{}, ""},
		{"nor has it a current one", procDomainHasCurrentSnapshot, &libvirt.DomainHasCurrentSnapshotArgs{Dom: bare}, &libvirt.DomainHasCurrentSnapshotRet{}, ""},
		{"nor has one that is young", procDomainHasCurrentSnapshot, &libvirt.DomainHasCurrentSnapshotArgs{Dom: young}, &libvirt.DomainHasCurrentSnapshotRet{}, ""},
		{"by name", procDomainSnapshotLookupByName, &libvirt.DomainSnapshotLookupByNameArgs{Dom: runs, Name: "mid"}, &libvirt.DomainSnapshotLookupByNameRet{Snap: snap("mid")}, ""},
		{"there is a current one", procDomainHasCurrentSnapshot, &libvirt.DomainHasCurrentSnapshotArgs{Dom: runs}, &libvirt.DomainHasCurrentSnapshotRet{Result: 1}, ""},
		{"the current one", procDomainSnapshotCurrent, &libvirt.DomainSnapshotCurrentArgs{Dom: runs}, &libvirt.DomainSnapshotCurrentRet{Snap: snap("last")}, ""},
		{"is the current one", procDomainSnapshotIsCurrent, &libvirt.DomainSnapshotIsCurrentArgs{Snap: snap("last")}, &libvirt.DomainSnapshotIsCurrentRet{Current: 1}, ""},
		{"is another one", procDomainSnapshotIsCurrent, &libvirt.DomainSnapshotIsCurrentArgs{Snap: snap("root")}, &libvirt.DomainSnapshotIsCurrentRet{}, ""},
		{"metadata", procDomainSnapshotHasMetadata, &libvirt.DomainSnapshotHasMetadataArgs{Snap: snap("root")}, &libvirt.DomainSnapshotHasMetadataRet{}, ""},
		{"parent", procDomainSnapshotGetParent, &libvirt.DomainSnapshotGetParentArgs{Snap: snap("leaf")}, &libvirt.DomainSnapshotGetParentRet{Snap: snap("mid")}, ""},
		{"description", procDomainSnapshotGetXmlDesc, &libvirt.DomainSnapshotGetXMLDescArgs{Snap: snap("mid"), Flags: 1}, &libvirt.DomainSnapshotGetXMLDescRet{XML: "<mid 1>"}, ""},
		{"create", procDomainSnapshotCreateXml, &libvirt.DomainSnapshotCreateXMLArgs{Dom: runs, XMLDesc: "<x>", Flags: 64}, &libvirt.DomainSnapshotCreateXMLRet{Snap: made}, `snapshot "<x>" 64`},
		{"revert", procDomainRevertToSnapshot, &libvirt.DomainRevertToSnapshotArgs{Snap: snap("mid"), Flags: 1}, nil, `revert "mid" 1`},
		{"delete", procDomainSnapshotDelete, &libvirt.DomainSnapshotDeleteArgs{Snap: snap("mid"), Flags: 1}, nil, `delete "mid" 1`},
	})
}

func TestSnapshotRefusals(t *testing.T) {
	const none = "no domain snapshot with matching name 'x'"
	testRefusals(t, []refused{
		{name: "no such domain", proc: procDomainSnapshotNum, args: &libvirt.DomainSnapshotNumArgs{Dom: nobody}, code: 42},
		{name: "no such domain for a lookup", proc: procDomainSnapshotLookupByName, args: &libvirt.DomainSnapshotLookupByNameArgs{Dom: nobody}, code: 42},
		{name: "no such domain to change", proc: procDomainSnapshotCreateXml, args: &libvirt.DomainSnapshotCreateXMLArgs{Dom: nobody}, code: 42},
		{name: "no such snapshot", proc: procDomainSnapshotLookupByName, args: &libvirt.DomainSnapshotLookupByNameArgs{Dom: runs, Name: "x"}, code: 72, says: none},
		{name: "children of none", proc: procDomainSnapshotNumChildren, args: &libvirt.DomainSnapshotNumChildrenArgs{Snap: snap("x")}, code: 72, says: none},
		{name: "a current one that is none", proc: procDomainSnapshotIsCurrent, args: &libvirt.DomainSnapshotIsCurrentArgs{Snap: snap("x")}, code: 72, says: none},
		{name: "no parent", proc: procDomainSnapshotGetParent, args: &libvirt.DomainSnapshotGetParentArgs{Snap: snap("root")}, code: 72, says: "snapshot 'root' does not have a parent"},
		{name: "no current one", proc: procDomainSnapshotCurrent, args: &libvirt.DomainSnapshotCurrentArgs{Dom: young}, code: 72, says: "the domain does not have a current snapshot"},
		{name: "too many names", proc: procDomainSnapshotListNames, args: &libvirt.DomainSnapshotListNamesArgs{Dom: runs, Maxnames: 16385}, code: 39},
		{name: "too many names of children", proc: procDomainSnapshotListChildrenNames, args: &libvirt.DomainSnapshotListChildrenNamesArgs{Snap: snap("root"), Maxnames: -1}, code: 39},
		{name: "flags of the count", proc: procDomainSnapshotNum, args: &libvirt.DomainSnapshotNumArgs{Dom: runs, Flags: 2048}, code: 8, says: "virDomainSnapshotNum"},
		{name: "flags of the names", proc: procDomainSnapshotListNames, args: &libvirt.DomainSnapshotListNamesArgs{Dom: runs, Flags: 2048}, code: 8, says: "virDomainSnapshotListNames"},
		{name: "flags of the list", proc: procDomainListAllSnapshots, args: &libvirt.DomainListAllSnapshotsArgs{Dom: runs, Flags: 2048}, code: 8, says: "virDomainListAllSnapshots"},
		{name: "flags of the list of children", proc: procDomainSnapshotListAllChildren, args: &libvirt.DomainSnapshotListAllChildrenArgs{Snapshot: snap("root"), Flags: 2048}, code: 8},
		{name: "flags of the lookup", proc: procDomainSnapshotLookupByName, args: &libvirt.DomainSnapshotLookupByNameArgs{Dom: runs, Name: "mid", Flags: 1}, code: 8},
		{name: "flags of the current one", proc: procDomainSnapshotCurrent, args: &libvirt.DomainSnapshotCurrentArgs{Dom: runs, Flags: 1}, code: 8},
		{name: "flags of the question for one", proc: procDomainHasCurrentSnapshot, args: &libvirt.DomainHasCurrentSnapshotArgs{Dom: runs, Flags: 1}, code: 8},
		{name: "flags of the question whether it is", proc: procDomainSnapshotIsCurrent, args: &libvirt.DomainSnapshotIsCurrentArgs{Snap: snap("last"), Flags: 1}, code: 8},
		{name: "flags of the parent", proc: procDomainSnapshotGetParent, args: &libvirt.DomainSnapshotGetParentArgs{Snap: snap("mid"), Flags: 1}, code: 8},
		{name: "flags of a description", proc: procDomainSnapshotGetXmlDesc, args: &libvirt.DomainSnapshotGetXMLDescArgs{Snap: snap("mid"), Flags: 2}, code: 8},
		{name: "flags of a new one", proc: procDomainSnapshotCreateXml, args: &libvirt.DomainSnapshotCreateXMLArgs{Dom: runs, Flags: 1024}, code: 8},
		{name: "flags of going back", proc: procDomainRevertToSnapshot, args: &libvirt.DomainRevertToSnapshotArgs{Snap: snap("mid"), Flags: 16}, code: 8},
		{name: "running and paused", proc: procDomainRevertToSnapshot, args: &libvirt.DomainRevertToSnapshotArgs{Snap: snap("mid"), Flags: 3}, code: 8, says: "exclude each other"},
		{name: "flags of a deletion", proc: procDomainSnapshotDelete, args: &libvirt.DomainSnapshotDeleteArgs{Snap: snap("mid"), Flags: 8}, code: 8},
		{name: "with children and children alone", proc: procDomainSnapshotDelete, args: &libvirt.DomainSnapshotDeleteArgs{Snap: snap("mid"), Flags: 5}, code: 8},
		{name: "what is secret for one who reads", ro: true, proc: procDomainSnapshotGetXmlDesc, args: &libvirt.DomainSnapshotGetXMLDescArgs{Snap: snap("mid"), Flags: 1}, code: 29},
		{name: "a guest without the ability", proc: procDomainSnapshotCreateXml, args: &libvirt.DomainSnapshotCreateXMLArgs{Dom: bare}, code: 3},
		{name: "nor is anything found in it", proc: procDomainSnapshotLookupByName, args: &libvirt.DomainSnapshotLookupByNameArgs{Dom: bare, Name: "mid"}, code: 3},
		{name: "nor is there a current one", proc: procDomainSnapshotCurrent, args: &libvirt.DomainSnapshotCurrentArgs{Dom: bare}, code: 3},
	})
}

func TestDomainsAreListedBySnapshots(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openURI(b.path, mirrorURI)
	for flags, want := range map[domain.ListFlags]string{domain.ListHasSnapshot: "runs", domain.ListNoSnapshot: "bare young"} {
		var ret libvirt.ConnectListAllDomainsRet
		c.must(procConnectListAllDomains, &libvirt.ConnectListAllDomainsArgs{NeedResults: 1, Flags: libvirt.ConnectListAllDomainsFlags(flags)}, &ret)
		names := make([]string, len(ret.Domains))
		for i, d := range ret.Domains {
			names[i] = d.Name
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("flags %d list %q, want %q", flags, got, want)
		}
	}
}

func TestTuningOverTheWire(t *testing.T) {
	reserved := libvirt.TypedParam{Field: "reservation", Value: *libvirt.NewTypedParamValueLlong(5)}
	limit := libvirt.TypedParam{Field: "limit", Value: *libvirt.NewTypedParamValueLlong(-1)}
	level := libvirt.TypedParam{Field: "level", Value: *libvirt.NewTypedParamValueString("high")}
	every := []libvirt.TypedParam{
		{Field: "a", Value: *libvirt.NewTypedParamValueInt(-1)},
		{Field: "b", Value: *libvirt.NewTypedParamValueUint(2)},
		{Field: "c", Value: *libvirt.NewTypedParamValueLlong(-3)},
		{Field: "d", Value: *libvirt.NewTypedParamValueUllong(4)},
		{Field: "e", Value: *libvirt.NewTypedParamValueDouble(0.5)},
		{Field: "f", Value: *libvirt.NewTypedParamValueBoolean(1)},
		{Field: "g", Value: *libvirt.NewTypedParamValueString("six")},
	}
	testAnswers(t, []answered{
		{"vCPUs", procDomainSetVcpus, &libvirt.DomainSetVcpusArgs{Dom: runs, Nvcpus: 4}, nil, "vcpus 4 0"},
		{"vCPUs with flags", procDomainSetVcpusFlags, &libvirt.DomainSetVcpusFlagsArgs{Dom: runs, Nvcpus: 4, Flags: 7}, nil, "vcpus 4 7"},
		{"memory", procDomainSetMemory, &libvirt.DomainSetMemoryArgs{Dom: runs, Memory: 1 << 20}, nil, "memory 1048576 0"},
		{"the largest memory", procDomainSetMaxMemory, &libvirt.DomainSetMaxMemoryArgs{Dom: runs, Memory: 1 << 20}, nil, "memory 1048576 4"},
		{"memory with flags", procDomainSetMemoryFlags, &libvirt.DomainSetMemoryFlagsArgs{Dom: runs, Memory: 1, Flags: 3}, nil, "memory 1 3"},
		{"scheduler", procDomainGetSchedulerType, &libvirt.DomainGetSchedulerTypeArgs{Dom: runs}, &libvirt.DomainGetSchedulerTypeRet{Type: "allocation", Nparams: 3}, ""},
		{
			"its parameters, for one who knows no strings", procDomainGetSchedulerParameters,
			&libvirt.DomainGetSchedulerParametersArgs{Dom: runs, Nparams: 3}, &libvirt.DomainGetSchedulerParametersRet{Params: []libvirt.TypedParam{reserved, limit}}, "",
		},
		{
			"all of them", procDomainGetSchedulerParametersFlags, &libvirt.DomainGetSchedulerParametersFlagsArgs{Dom: runs, Nparams: 3, Flags: 4},
			&libvirt.DomainGetSchedulerParametersFlagsRet{Params: []libvirt.TypedParam{reserved, limit, level}}, "",
		},
		{
			"the first one", procDomainGetSchedulerParametersFlags, &libvirt.DomainGetSchedulerParametersFlagsArgs{Dom: runs, Nparams: 1, Flags: 2},
			&libvirt.DomainGetSchedulerParametersFlagsRet{Params: []libvirt.TypedParam{reserved}}, "",
		},
		{
			"change one", procDomainSetSchedulerParameters, &libvirt.DomainSetSchedulerParametersArgs{Dom: runs, Params: []libvirt.TypedParam{limit}},
			nil, `name:"limit" llong:-1 0`,
		},
		{
			"values of all types", procDomainSetSchedulerParametersFlags,
			&libvirt.DomainSetSchedulerParametersFlagsArgs{Dom: runs, Params: every, Flags: 3}, nil,
			`name:"a" int:-1 3; name:"b" uint:2 3; name:"c" llong:-3 3; name:"d" ullong:4 3; name:"e" double:0.5 3; name:"f" boolean:true 3; name:"g" string:"six" 3`,
		},
	})
}

func TestTuningRefusals(t *testing.T) {
	limit := libvirt.TypedParam{Field: "limit", Value: *libvirt.NewTypedParamValueLlong(-1)}
	set := func(n int) *libvirt.DomainSetSchedulerParametersArgs {
		args := &libvirt.DomainSetSchedulerParametersArgs{Dom: runs}
		for range n {
			args.Params = append(args.Params, limit)
		}
		return args
	}
	testRefusals(t, []refused{
		{name: "no vCPU", proc: procDomainSetVcpus, args: &libvirt.DomainSetVcpusArgs{Dom: runs}, code: 8, says: "virDomainSetVcpus must not be zero"},
		{name: "too many vCPUs", proc: procDomainSetVcpus, args: &libvirt.DomainSetVcpusArgs{Dom: runs, Nvcpus: 1 << 16}, code: 82},
		{name: "flags of vCPUs", proc: procDomainSetVcpusFlags, args: &libvirt.DomainSetVcpusFlagsArgs{Dom: runs, Nvcpus: 1, Flags: 32}, code: 8},
		{name: "the guest's own and the definition", proc: procDomainSetVcpusFlags, args: &libvirt.DomainSetVcpusFlagsArgs{Dom: runs, Nvcpus: 1, Flags: 10}, code: 8},
		{name: "no memory", proc: procDomainSetMemory, args: &libvirt.DomainSetMemoryArgs{Dom: runs}, code: 8},
		{name: "flags of memory", proc: procDomainSetMemoryFlags, args: &libvirt.DomainSetMemoryFlagsArgs{Dom: runs, Memory: 1, Flags: 8}, code: 8},
		{name: "no such domain", proc: procDomainSetMemory, args: &libvirt.DomainSetMemoryArgs{Dom: nobody, Memory: 1}, code: 42},
		{name: "no room for parameters", proc: procDomainGetSchedulerParameters, args: &libvirt.DomainGetSchedulerParametersArgs{Dom: runs}, code: 39},
		{name: "too much room", proc: procDomainGetSchedulerParameters, args: &libvirt.DomainGetSchedulerParametersArgs{Dom: runs, Nparams: 17}, code: 39},
		{name: "flags of parameters", proc: procDomainGetSchedulerParametersFlags, args: &libvirt.DomainGetSchedulerParametersFlagsArgs{Dom: runs, Nparams: 1, Flags: 8}, code: 8},
		{name: "guest and definition at once", proc: procDomainGetSchedulerParametersFlags, args: &libvirt.DomainGetSchedulerParametersFlagsArgs{Dom: runs, Nparams: 1, Flags: 3}, code: 8},
		{name: "no parameter", proc: procDomainSetSchedulerParameters, args: set(0), code: 39},
		{name: "too many parameters", proc: procDomainSetSchedulerParameters, args: set(17), code: 39},
		{name: "one parameter twice", proc: procDomainSetSchedulerParameters, args: set(2), code: 8, says: "parameter 'limit' occurs multiple times"},
		{name: "flags of a change", proc: procDomainSetSchedulerParametersFlags, args: &libvirt.DomainSetSchedulerParametersFlagsArgs{Dom: runs, Params: []libvirt.TypedParam{limit}, Flags: 4}, code: 8},
		{name: "a guest without the ability", proc: procDomainSetVcpus, args: &libvirt.DomainSetVcpusArgs{Dom: bare, Nvcpus: 1}, code: 3},
		{name: "nor has it a scheduler", proc: procDomainGetSchedulerType, args: &libvirt.DomainGetSchedulerTypeArgs{Dom: bare}, code: 3},
		{name: "nor parameters of one", proc: procDomainGetSchedulerParameters, args: &libvirt.DomainGetSchedulerParametersArgs{Dom: bare, Nparams: 1}, code: 3},
	})
}

func TestNativesAndMigration(t *testing.T) {
	testAnswers(t, []answered{
		{"from native", procConnectDomainXmlFromNative, &libvirt.ConnectDomainXMLFromNativeArgs{NativeFormat: "vmx", NativeConfig: "x"}, &libvirt.ConnectDomainXMLFromNativeRet{DomainXML: "<from vmx x>"}, ""},
		{"to native", procConnectDomainXmlToNative, &libvirt.ConnectDomainXMLToNativeArgs{NativeFormat: "vmx", DomainXML: "y"}, &libvirt.ConnectDomainXMLToNativeRet{NativeConfig: "to vmx y"}, ""},
		{
			"prepare", procDomainMigratePrepare, &libvirt.DomainMigratePrepareArgs{UriIn: libvirt.OptString{"u"}, Flags: 1, Dname: libvirt.OptString{"new"}},
			&libvirt.DomainMigratePrepareRet{UriOut: libvirt.OptString{"far://there"}}, `prepare "u" 1 "new"`,
		},
		{"prepare with nothing", procDomainMigratePrepare, &libvirt.DomainMigratePrepareArgs{}, &libvirt.DomainMigratePrepareRet{UriOut: libvirt.OptString{"far://there"}}, `prepare "" 0 ""`},
		{"perform", procDomainMigratePerform, &libvirt.DomainMigratePerformArgs{Dom: runs, Cookie: []byte("any"), Uri: "u", Flags: 1}, nil, `perform "u" 1 ""`},
		{"finish", procDomainMigrateFinish, &libvirt.DomainMigrateFinishArgs{Dname: "runs", Uri: "u", Flags: 1}, &libvirt.DomainMigrateFinishRet{Ddom: runs}, `finish "runs" "u" 1`},
		{"migration is there", procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 1}, &libvirt.ConnectSupportsFeatureRet{Supported: 1}, ""},
		{"that of the second version is not", procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 3}, &libvirt.ConnectSupportsFeatureRet{}, ""},
		{"strings among parameters are there", procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 9}, &libvirt.ConnectSupportsFeatureRet{Supported: 1}, ""},
	})
	testRefusals(t, []refused{
		{name: "flags of a translation", proc: procConnectDomainXmlFromNative, args: &libvirt.ConnectDomainXMLFromNativeArgs{Flags: 1}, code: 8},
		{name: "and of the other one", proc: procConnectDomainXmlToNative, args: &libvirt.ConnectDomainXMLToNativeArgs{Flags: 1}, code: 8},
		{name: "flags of the target", proc: procDomainMigratePrepare, args: &libvirt.DomainMigratePrepareArgs{Flags: 1 << 40}, code: 8, says: "unsupported flags (0x10000000000) in function virDomainMigratePrepare"},
		{name: "flags of the source", proc: procDomainMigratePerform, args: &libvirt.DomainMigratePerformArgs{Dom: runs, Flags: 1 << 21}, code: 8},
		{name: "a guest that cannot be sent", proc: procDomainMigratePerform, args: &libvirt.DomainMigratePerformArgs{Dom: bare}, code: 3},
		{name: "no such guest", proc: procDomainMigratePerform, args: &libvirt.DomainMigratePerformArgs{Dom: nobody}, code: 42},
		{name: "a driver without other formats", uri: here, proc: procConnectDomainXmlFromNative, args: &libvirt.ConnectDomainXMLFromNativeArgs{}, code: 3},
		{name: "a driver that takes no guests", uri: here, proc: procDomainMigratePrepare, args: &libvirt.DomainMigratePrepareArgs{}, code: 3},
		{name: "nor finds them", uri: here, proc: procDomainMigrateFinish, args: &libvirt.DomainMigrateFinishArgs{}, code: 3},
	})
}

func TestMachineOfAConnection(t *testing.T) {
	b := newBench(t, Limits{})
	far, near := b.openURI(b.ro, mirrorURI), b.open(b.ro)
	var name, own libvirt.ConnectGetHostnameRet
	far.must(procConnectGetHostname, &void{}, &name)
	near.must(procConnectGetHostname, &void{}, &own)
	if name.Hostname != mirrorHost || own.Hostname == mirrorHost || own.Hostname == "" {
		t.Errorf("machines %q and %q", name.Hostname, own.Hostname)
	}
	for proc, args := range map[int32]any{
		procConnectGetSysinfo:  &libvirt.ConnectGetSysinfoArgs{},
		procNodeGetCpuStats:    &libvirt.NodeGetCPUStatsArgs{CPUNum: -1},
		procNodeGetMemoryStats: &libvirt.NodeGetMemoryStatsArgs{CellNum: -1},
		procNodeGetCpuMap:      &libvirt.NodeGetCPUMapArgs{},
	} {
		if e := far.call(proc, args, nil); e == nil || e.Code != 3 || !strings.Contains(*e.Message, mirrorHost) {
			t.Errorf("procedure %d answers for a machine that is not here: %+v", proc, e)
		}
		if e := near.call(proc, args, nil); e != nil && e.Code == 3 {
			t.Errorf("procedure %d does not answer: %s", proc, *e.Message)
		}
	}
	var pins libvirt.DomainGetVcpuPinInfoRet
	far.must(procDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: runs, Ncpumaps: 1, Maplen: 3}, &pins)
	if want := []byte{0xff, 0x0f, 0}; !bytes.Equal(pins.Cpumaps, want) {
		t.Errorf("a guest of a machine with twelve CPUs may run on %x, want %x", pins.Cpumaps, want)
	}
	var feature libvirt.ConnectSupportsFeatureRet
	if near.must(procConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 1}, &feature); feature.Supported != 0 {
		t.Error("migration to a driver that takes no guests")
	}
}

// TestReadersChangeNothing calls all that changes an object of the connection's over the read-only socket.
func TestReadersChangeNothing(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openURI(b.ro, mirrorURI)
	for n, p := range remoteProcedures {
		if p.flags&changes == 0 || p.handler == nil {
			continue
		}
		if e := c.call(int32(n), &void{}, nil); e == nil || e.Code != 29 || !strings.Contains(*e.Message, p.name) {
			t.Errorf("%s: %+v", p.name, e)
		}
	}
	if said := b.mirror.said(); said != "" {
		t.Errorf("asked %q", said)
	}
}

func TestGoLibvirtKnowsTheObjects(t *testing.T) {
	b := newBench(t, Limits{})
	l := libvirt.NewWithDialer(unixDialer(b.path))
	if err := l.ConnectToURI(mirrorURI); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Disconnect() }()
	nets, n, err := l.ConnectListAllNetworks(1, 0)
	if err != nil || n != 4 || len(nets) != 4 {
		t.Fatalf("networks %v, error %v", nets, err)
	}
	if bridge, err := l.NetworkGetBridgeName(nets[1]); err != nil || bridge != "br0" {
		t.Errorf("bridge %q, error %v", bridge, err)
	}
	if ifaces, _, err := l.ConnectListAllInterfaces(1, 0); err != nil || len(ifaces) != 3 {
		t.Errorf("interfaces %v, error %v", ifaces, err)
	}
	if snaps, _, err := l.DomainListAllSnapshots(runs, 1, 0); err != nil || len(snaps) != 6 {
		t.Errorf("snapshots %v, error %v", snaps, err)
	}
	if kind, params, err := l.DomainGetSchedulerType(runs); err != nil || kind != "allocation" || params != 3 {
		t.Errorf("scheduler %q, %d parameters, error %v", kind, params, err)
	}
}
