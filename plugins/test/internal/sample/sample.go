// Package sample is the pretended world of the test driver: the host and the guest that libvirt's own test:///default shows, which
// many tests and examples expect. It is data; the numbers are those that libvirt 9.0.0 answers.
package sample

import (
	"fmt"
	"strings"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Facts of the pretended hypervisor.
const (
	// Type is what virConnectGetType answers.
	Type = "TEST"
	// Version is 0.0.2, what virConnectGetVersion answers.
	Version = 2
	// Arch is the host's architecture.
	Arch = "i686"
	// Emulator is a path where nothing is.
	Emulator = "/usr/bin/test-hv"
	// MaxVCPUs is the largest number of vCPUs of a guest.
	MaxVCPUs = 32

	securityModel = "testSecurity"
	cells         = 2
	cpusPerCell   = 8
)

// pages are the page sizes of a NUMA cell in KiB and how many it has.
type pages struct{ size, count int }

// cell is a NUMA cell.
type cell struct {
	memoryKiB uint64
	pages     []pages
}

var numa = [cells]cell{
	{2097152, []pages{{4, 524288}, {2048, 0}, {1048576, 0}}},
	{4194304, []pages{{8, 524288}, {2048, 0}, {1048576, 0}}},
}

// Probe is the answer to Probe for any connection.
func Probe() *pb.ProbeResponse {
	return &pb.ProbeResponse{
		Type: Type, Version: Version, CapabilitiesXml: Capabilities(), Node: Node(),
		MaxVcpus:      map[string]uint32{"": MaxVCPUs},
		Seeds:         []*pb.Seed{{Xml: seed, Active: true}},
		SecurityModel: &pb.SecurityModel{Model: securityModel},
	}
}

// Node is the pretended host.
func Node() *pb.Node {
	return &pb.Node{
		Model: Arch, MemoryKib: 3145728, Cpus: cells * cpusPerCell, Mhz: 1400, Nodes: cells, Sockets: 2, Cores: 2, Threads: 2,
		CellFreeKib: []uint64{numa[0].memoryKiB, numa[1].memoryKiB},
	}
}

// Capabilities is libvirt's <capabilities> document of the pretended host.
func Capabilities() string {
	var b strings.Builder
	b.WriteString("<capabilities>\n\n  <host>\n    <cpu>\n      <arch>" + Arch + "</arch>\n")
	b.WriteString("      <features>\n        <pae/>\n        <nonpae/>\n      </features>\n")
	for _, size := range []int{4, 8, 2048, 1048576} {
		fmt.Fprintf(&b, "      <pages unit='KiB' size='%d'/>\n", size)
	}
	b.WriteString("    </cpu>\n    <power_management/>\n    <iommu support='no'/>\n")
	writeTopology(&b)
	b.WriteString("    <secmodel>\n      <model>" + securityModel + "</model>\n      <doi></doi>\n    </secmodel>\n  </host>\n\n")
	for _, os := range []string{"hvm", "xen"} {
		writeGuest(&b, os)
	}
	b.WriteString("</capabilities>\n")
	return b.String()
}

func writeTopology(b *strings.Builder) {
	fmt.Fprintf(b, "    <topology>\n      <cells num='%d'>\n", cells)
	for id, c := range numa {
		fmt.Fprintf(b, "        <cell id='%d'>\n          <memory unit='KiB'>%d</memory>\n", id, c.memoryKiB)
		for _, p := range c.pages {
			fmt.Fprintf(b, "          <pages unit='KiB' size='%d'>%d</pages>\n", p.size, p.count)
		}
		fmt.Fprintf(b, "          <cpus num='%d'>\n", cpusPerCell)
		for core := range cpusPerCell {
			cpu := id*cpusPerCell + core
			fmt.Fprintf(b, "            <cpu id='%d' socket_id='%d' die_id='0' core_id='%d' siblings='%d'/>\n", cpu, id, core, cpu)
		}
		b.WriteString("          </cpus>\n        </cell>\n")
	}
	b.WriteString("      </cells>\n    </topology>\n")
}

func writeGuest(b *strings.Builder, os string) {
	fmt.Fprintf(b, "  <guest>\n    <os_type>%s</os_type>\n    <arch name='%s'>\n      <wordsize>32</wordsize>\n", os, Arch)
	fmt.Fprintf(b, "      <emulator>%s</emulator>\n      <domain type='test'/>\n    </arch>\n", Emulator)
	b.WriteString("    <features>\n      <pae/>\n      <nonpae/>\n    </features>\n  </guest>\n\n")
}

// seed is the guest that runs from the first use of a connection on.
const seed = `<domain type='test'>
  <name>test</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='i686'>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <source file='/guest/diskimage1'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='aa:bb:cc:dd:ee:ff'/>
      <source network='default'/>
      <target dev='testnet0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
    </interface>
    <memballoon model='virtio'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </memballoon>
  </devices>
</domain>
`
