package node

import (
	"encoding/xml"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// dmiDir is where the kernel shows the firmware's tables of the machine.
const dmiDir = "sys/class/dmi/id"

// maxDMIValue bounds a value; SMBIOS strings are far shorter.
const maxDMIValue = 256

// sysinfoTables says which of the kernel's files makes which entry of the document, in libvirt's order.
var sysinfoTables = []struct {
	element string
	entries []struct{ name, file string }
}{
	{"bios", []struct{ name, file string }{
		{"vendor", "bios_vendor"}, {"version", "bios_version"}, {"date", "bios_date"}, {"release", "bios_release"},
	}},
	{"system", []struct{ name, file string }{
		{"manufacturer", "sys_vendor"},
		{"product", "product_name"},
		{"version", "product_version"},
		{"serial", "product_serial"},
		{"uuid", "product_uuid"},
		{"sku", "product_sku"},
		{"family", "product_family"},
	}},
	{"baseBoard", []struct{ name, file string }{
		{"manufacturer", "board_vendor"},
		{"product", "board_name"},
		{"version", "board_version"},
		{"serial", "board_serial"},
		{"asset", "board_asset_tag"},
	}},
	{"chassis", []struct{ name, file string }{
		{"manufacturer", "chassis_vendor"},
		{"version", "chassis_version"},
		{"serial", "chassis_serial"},
		{"asset", "chassis_asset_tag"},
	}},
}

// SysinfoXML returns the machine's SMBIOS facts as libvirt's <sysinfo> document. A machine without them is ConfigUnsupported.
func (h *Host) SysinfoXML() (string, error) {
	var doc strings.Builder
	doc.WriteString(`<sysinfo type="smbios">`)
	found := false
	for _, table := range sysinfoTables {
		var entries strings.Builder
		for _, e := range table.entries {
			value := h.dmi(e.file)
			if value == "" {
				continue
			}
			entries.WriteString(`<entry name="` + e.name + `">`)
			if err := xml.EscapeText(&entries, []byte(value)); err != nil {
				return "", err
			}
			entries.WriteString(`</entry>`)
		}
		if entries.Len() > 0 {
			found = true
			doc.WriteString("<" + table.element + ">" + entries.String() + "</" + table.element + ">")
		}
	}
	if !found {
		return "", verr.New(verr.ConfigUnsupported, "Host SMBIOS information is not available")
	}
	doc.WriteString(`</sysinfo>`)
	return domxml.Reformat(doc.String())
}

func (h *Host) dmi(file string) string {
	value := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(h.readLine(dmiDir, file), ""))
	if len(value) > maxDMIValue {
		return ""
	}
	return value
}

// hostUUID is the configured one, the firmware's, or one made from the id of the installation; "" where there is none.
func (h *Host) hostUUID() string {
	if h.uuid != "" {
		return h.uuid
	}
	if id, err := uuid.Parse(h.dmi("product_uuid")); err == nil && plausible(id) {
		return id.String()
	}
	if id, err := uuid.Parse(h.readLine("etc/machine-id")); err == nil && plausible(id) {
		// The id itself is meant to stay on the machine: https://www.freedesktop.org/software/systemd/man/machine-id.html
		return uuid.NewSHA1(id, []byte("lodge host")).String()
	}
	return ""
}

// plausible refuses what lazy vendors burn into boards: one digit over and over.
func plausible(id uuid.UUID) bool {
	text := strings.ReplaceAll(id.String(), "-", "")
	return strings.Trim(text, text[:1]) != ""
}
