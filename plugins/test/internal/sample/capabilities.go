package sample

import (
	"github.com/lodgevirt/lodge/sdk/verr"
)

// x86Models are the CPU models of x86 that libvirt 9.0.0 names, in its order.
var x86Models = []string{
	"486", "pentium", "pentium2", "pentium3", "pentiumpro", "coreduo", "n270", "core2duo", "qemu32", "kvm32", "cpu64-rhel5",
	"cpu64-rhel6", "qemu64", "kvm64", "Conroe", "Penryn", "Nehalem", "Nehalem-IBRS", "Westmere", "Westmere-IBRS", "SandyBridge",
	"SandyBridge-IBRS", "IvyBridge", "IvyBridge-IBRS", "Haswell-noTSX", "Haswell-noTSX-IBRS", "Haswell", "Haswell-IBRS",
	"Broadwell-noTSX", "Broadwell-noTSX-IBRS", "Broadwell", "Broadwell-IBRS", "Skylake-Client", "Skylake-Client-IBRS",
	"Skylake-Client-noTSX-IBRS", "Skylake-Server", "Skylake-Server-IBRS", "Skylake-Server-noTSX-IBRS", "Cascadelake-Server",
	"Cascadelake-Server-noTSX", "Icelake-Client", "Icelake-Client-noTSX", "Icelake-Server", "Icelake-Server-noTSX", "Cooperlake",
	"Snowridge", "athlon", "phenom", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5", "EPYC", "EPYC-IBPB",
	"EPYC-Rome", "EPYC-Milan", "Dhyana",
}

// models are the CPU models by architecture.
var models = map[string][]string{
	"": x86Models, "i686": x86Models, "x86_64": x86Models,
	"ppc64":   {"POWER6", "POWER7", "POWER8", "POWER9", "POWER10", "POWERPC_e5500", "POWERPC_e6500"},
	"aarch64": {}, "armv7l": {}, "s390x": {},
}

// CPUModels lists the CPU models of an architecture, i686 if it is empty. It fails with NoSupport for one that is not known.
func CPUModels(arch string) ([]string, error) {
	names, ok := models[arch]
	if !ok {
		return nil, verr.New(verr.NoSupport, "'%s' architecture is not supported by CPU driver", arch)
	}
	return names, nil
}

// DomainCapabilities is libvirt's <domainCapabilities> document for the only kind of guest that there is. What is asked for may
// be empty; anything else is refused with InvalidArg.
func DomainCapabilities(emulator, arch, machine, virtType string) (string, error) {
	for _, q := range []struct{ what, asked, have string }{
		{"emulator", emulator, Emulator}, {"architecture", arch, Arch}, {"machine", machine, ""}, {"virttype", virtType, "test"},
	} {
		if q.asked != "" && q.asked != q.have {
			return "", verr.New(verr.InvalidArg, "%s '%s' is not what the test driver has", q.what, q.asked)
		}
	}
	return domainCapabilities, nil
}

const domainCapabilities = `<domainCapabilities>
  <path>` + Emulator + `</path>
  <domain>test</domain>
  <arch>` + Arch + `</arch>
  <vcpu max='32'/>
  <iothreads supported='no'/>
  <os supported='no'/>
  <cpu>
    <mode name='host-passthrough' supported='no'/>
    <mode name='maximum' supported='no'/>
    <mode name='host-model' supported='no'/>
    <mode name='custom' supported='no'/>
  </cpu>
  <devices>
    <disk supported='yes'>
      <enum name='diskDevice'>
        <value>disk</value>
        <value>cdrom</value>
        <value>floppy</value>
      </enum>
      <enum name='bus'>
        <value>ide</value>
        <value>fdc</value>
        <value>scsi</value>
        <value>virtio</value>
        <value>xen</value>
      </enum>
    </disk>
    <graphics supported='no'/>
    <video supported='no'/>
    <hostdev supported='no'/>
  </devices>
  <features>
    <gic supported='no'/>
  </features>
</domainCapabilities>
`
