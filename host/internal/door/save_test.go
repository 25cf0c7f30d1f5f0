package door

import (
	"context"
	"path/filepath"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
)

func TestSaveProceduresRefuse(t *testing.T) {
	b := newBench(t, Limits{})
	d := b.define("guest")
	if err := d.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	c, ro := b.open(b.path), b.open(b.ro)
	dom, file := reference(d.View()), filepath.Join(t.TempDir(), "saved")
	text := func(field, value string) libvirt.TypedParam {
		return libvirt.TypedParam{Field: field, Value: *libvirt.NewTypedParamValueString(value)}
	}
	number := libvirt.TypedParam{Field: "file", Value: *libvirt.NewTypedParamValueInt(1)}
	for _, tc := range []struct {
		name string
		on   *raw
		proc int32
		args any
		code int32
	}{
		{"a driver that cannot save", c, procDomainSave, &libvirt.DomainSaveArgs{Dom: dom, To: file}, 3},
		{"a save with unknown flags", c, procDomainSaveFlags, &libvirt.DomainSaveFlagsArgs{Dom: dom, To: file, Flags: 16}, 8},
		{"a save to run and not to run", c, procDomainSaveFlags, &libvirt.DomainSaveFlagsArgs{Dom: dom, To: file, Flags: 6}, 8},
		{"a save that resets NVRAM", c, procDomainSaveFlags, &libvirt.DomainSaveFlagsArgs{Dom: dom, To: file, Flags: 8}, 74},
		{"a parameter that is not known", c, procDomainSaveParams, &libvirt.DomainSaveParamsArgs{Dom: dom, Params: []libvirt.TypedParam{text("image_format", "xz")}}, 8},
		{"a parameter of the wrong type", c, procDomainSaveParams, &libvirt.DomainSaveParamsArgs{Dom: dom, Params: []libvirt.TypedParam{number}}, 8},
		{"a managed save with unknown flags", c, procDomainManagedSave, &libvirt.DomainManagedSaveArgs{Dom: dom, Flags: 16}, 8},
		{"a restore from nothing", c, procDomainRestoreParams, &libvirt.DomainRestoreParamsArgs{}, 8},
		{"a restore from what is not there", c, procDomainRestore, &libvirt.DomainRestoreArgs{From: file}, 38},
		{"a restore with unknown flags", c, procDomainRestoreFlags, &libvirt.DomainRestoreFlagsArgs{From: file, Flags: 16}, 8},
		{"a question with flags", c, procDomainHasManagedSaveImage, &libvirt.DomainHasManagedSaveImageArgs{Dom: dom, Flags: 1}, 8},
		{"the end of an image that is not there", c, procDomainManagedSaveRemove, &libvirt.DomainManagedSaveRemoveArgs{Dom: dom}, 55},
		{"its definition", c, procDomainManagedSaveGetXmlDesc, &libvirt.DomainManagedSaveGetXMLDescArgs{Dom: dom}, 55},
		{"another definition of it", c, procDomainManagedSaveDefineXml, &libvirt.DomainManagedSaveDefineXMLArgs{Dom: dom}, 55},
		{"the definition in what is not there", c, procDomainSaveImageGetXmlDesc, &libvirt.DomainSaveImageGetXMLDescArgs{File: file}, 38},
		{"another definition of that", c, procDomainSaveImageDefineXml, &libvirt.DomainSaveImageDefineXMLArgs{File: file}, 38},
		{"the end of no job", c, procDomainAbortJob, &libvirt.DomainAbortJobArgs{Dom: dom}, 55},
		{"the end of a migration", c, procDomainAbortJobFlags, &libvirt.DomainAbortJobFlagsArgs{Dom: dom, Flags: 1}, 55},
		{"a save over the read-only socket", ro, procDomainSave, &libvirt.DomainSaveArgs{Dom: dom, To: file}, 29},
		{"a definition in a file over it", ro, procDomainSaveImageGetXmlDesc, &libvirt.DomainSaveImageGetXMLDescArgs{File: file}, 29},
		{"secrets over it", ro, procDomainManagedSaveGetXmlDesc, &libvirt.DomainManagedSaveGetXMLDescArgs{Dom: dom, Flags: 1}, 29},
		{"the end of a job over it", ro, procDomainAbortJob, &libvirt.DomainAbortJobArgs{Dom: dom}, 29},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if e := tc.on.call(tc.proc, tc.args, nil); e == nil || e.Code != tc.code {
				t.Errorf("error is %+v, want code %d", e, tc.code)
			}
		})
	}
	var state libvirt.DomainGetStateRet
	if c.must(procDomainGetState, &libvirt.DomainGetStateArgs{Dom: dom}, &state); state.State != 1 {
		t.Errorf("the guest is in state %d after that", state.State)
	}
	var info libvirt.DomainGetJobInfoRet
	if c.must(procDomainGetJobInfo, &libvirt.DomainGetJobInfoArgs{Dom: dom}, &info); info != (libvirt.DomainGetJobInfoRet{}) {
		t.Errorf("job is %+v", info)
	}
}
