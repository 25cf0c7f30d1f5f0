package e2e

import "fmt"

// testDomain is a domain of the test driver. More XML may be put into <devices> and <metadata>.
func testDomain(name, devices, metadata string) string {
	return fmt.Sprintf(`<domain type='test'>
  <name>%s</name>
  <metadata>%s</metadata>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices>%s</devices>
</domain>
`, name, metadata, devices)
}

// faults is the metadata that makes a guest of the test driver fail at points.
func faults(xml string) string {
	return "<lodge:test xmlns:lodge='https://lodgevirt.org/xml/test/1.0'>" + xml + "</lodge:test>"
}

// disk is a writable disk, which is locked while its guest lives.
func disk(path string) string {
	return fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>`, path)
}

// qemuDomain is the smallest guest of QEMU; it has no system and idles in its firmware.
func qemuDomain(name, devices string) string {
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>%s<memballoon model='none'/></devices>
</domain>
`, name, devices)
}
