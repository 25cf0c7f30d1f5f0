package guests

import (
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// driverType is libvirt's name of the driver.
const driverType = "ESX"

// maxModel is the longest model of a CPU that libvirt's clients take, in bytes.
const maxModel = 31

// probe is what is told of the host.
func (g *Guests) probe(h inventory.Host) *hv.ProbeResponse {
	p := &hv.ProbeResponse{Type: driverType, Version: number(h.Version), CapabilitiesXml: capabilities(h), Node: node(h)}
	if h.MaxVCPUs > 0 {
		p.MaxVcpus = map[string]uint32{"": uint32(h.MaxVCPUs), "vmware": uint32(h.MaxVCPUs)}
	}
	return p
}

// node describes the host as libvirt's own driver does. Free memory is told of all cells alike, since the host tells only the sum.
func node(h inventory.Host) *hv.Node {
	n := &hv.Node{
		Model: model(h.CPUModel), MemoryKib: uint64(max(0, h.Memory)) >> 10, Mhz: uint32(max(0, h.MHz)), Nodes: uint32(max(1, h.Cells)),
		Cpus: uint32(max(1, h.Threads)), Sockets: uint32(max(1, h.Packages)), Cores: 1, Threads: 1, Hostname: hostname(h),
	}
	if h.Packages > 0 && h.Cores > 0 {
		n.Cores = max(1, uint32(h.Cores/h.Packages))
		n.Threads = max(1, uint32(h.Threads/h.Cores))
	}
	if n.Nodes > 1 && n.Sockets%n.Nodes == 0 {
		n.Sockets /= n.Nodes
	} else if n.Nodes > 1 {
		n.Nodes = 1
	}
	free := n.MemoryKib - min(n.MemoryKib, uint64(max(0, h.MemoryUsed))<<10)
	for range n.Nodes {
		n.CellFreeKib = append(n.CellFreeKib, free/uint64(n.Nodes))
	}
	return n
}

// model is a CPU's name without what says nothing, as libvirt shortens it.
func model(name string) string {
	for _, word := range []string{"(R)", "(TM)", "CPU", "Processor"} {
		name = strings.ReplaceAll(name, word, "")
	}
	name = strings.Join(strings.Fields(name), " ")
	if len(name) > maxModel {
		name = strings.ToValidUTF8(name[:maxModel], "")
	}
	return name
}

func hostname(h inventory.Host) string {
	switch {
	case h.HostName == "":
		return h.Name
	case h.DomainName == "":
		return h.HostName
	}
	return h.HostName + "." + h.DomainName
}

// capabilities is the document of libvirt's own driver.
func capabilities(h inventory.Host) string {
	var b strings.Builder
	arch := "i686"
	if h.LongMode {
		arch = "x86_64"
	}
	b.WriteString("<capabilities>\n\n  <host>\n")
	if h.UUID != "" {
		fmt.Fprintf(&b, "    <uuid>%s</uuid>\n", escape(strings.ToLower(h.UUID)))
	}
	fmt.Fprintf(&b, `    <cpu>
      <arch>%s</arch>
    </cpu>
    <power_management/>
    <migration_features>
      <live/>
      <uri_transports>
        <uri_transport>%s</uri_transport>
      </uri_transports>
    </migration_features>
  </host>

`, arch, migrateScheme)
	guest(&b, "i686", 32)
	if h.LongMode {
		guest(&b, "x86_64", 64)
	}
	b.WriteString("</capabilities>\n")
	return b.String()
}

func guest(b *strings.Builder, arch string, bits int) {
	fmt.Fprintf(b, `  <guest>
    <os_type>hvm</os_type>
    <arch name='%s'>
      <wordsize>%d</wordsize>
      <domain type='vmware'/>
    </arch>
  </guest>

`, arch, bits)
}

func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;").Replace(text)
}

// DomainCapabilities tells what a guest may have.
func (g *Guests) DomainCapabilities() string {
	h := g.mirror.Snapshot().Host
	arch := "i686"
	if h.LongMode {
		arch = "x86_64"
	}
	return fmt.Sprintf(domainCapabilities, arch, max(1, h.MaxVCPUs))
}

// domainCapabilities has what this driver can make.
const domainCapabilities = `<domainCapabilities>
  <path>/bin/vmx</path>
  <domain>vmware</domain>
  <machine>vmware</machine>
  <arch>%s</arch>
  <vcpu max='%d'/>
  <os supported='yes'>
    <enum name='firmware'>
      <value>bios</value>
      <value>efi</value>
    </enum>
  </os>
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
        <value>lun</value>
      </enum>
      <enum name='bus'>
        <value>scsi</value>
        <value>ide</value>
        <value>sata</value>
        <value>nvme</value>
        <value>fdc</value>
      </enum>
    </disk>
    <graphics supported='yes'>
      <enum name='type'>
        <value>vnc</value>
      </enum>
    </graphics>
    <video supported='yes'>
      <enum name='modelType'>
        <value>vmvga</value>
      </enum>
    </video>
    <hostdev supported='no'/>
  </devices>
  <features>
    <gic supported='no'/>
    <vmcoreinfo supported='no'/>
    <genid supported='yes'/>
    <backup supported='no'/>
  </features>
</domainCapabilities>
`

// HardwareVersion is the newest virtual hardware that the host runs, 0 if the host is not known.
func (g *Guests) HardwareVersion() int {
	version, err := vmx.HardwareVersion("ESX", g.mirror.Snapshot().Host.Version)
	if err != nil {
		return 0
	}
	return version
}
