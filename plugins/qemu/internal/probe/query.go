package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// propertiesOf are the types whose properties drivers ask for: newer versions of QEMU have more of them.
var propertiesOf = []string{
	"virtio-blk-pci", "virtio-net-pci", "virtio-balloon-pci", "virtio-scsi-pci", "virtio-gpu-pci", "virtio-mem-pci",
	"pcie-root-port", "scsi-hd", "ide-hd", "usb-storage", "qxl", "vmgenid", "intel-iommu", "PIIX4_PM", "ICH9-LPC",
}

// archs are libvirt's names of QEMU's targets where they differ.
var archs = map[string]string{"arm": "armv7l", "i386": "i686", "or1k": "or32"}

func archOf(target string) string {
	if arch, ok := archs[target]; ok {
		return arch
	}
	return target
}

type machineReply struct {
	Name       string `json:"name"`
	Alias      string `json:"alias"`
	IsDefault  bool   `json:"is-default"`
	CPUMax     int    `json:"cpu-max"`
	Hotplug    bool   `json:"hotpluggable-cpus"`
	Deprecated bool   `json:"deprecated"`
	DefaultRAM string `json:"default-ram-id"`
	DefaultCPU string `json:"default-cpu-type"`
}

type cpuReply struct {
	Name        string    `json:"name"`
	AliasOf     string    `json:"alias-of"`
	Unavailable *[]string `json:"unavailable-features"`
	Deprecated  bool      `json:"deprecated"`
	Static      bool      `json:"static"`
}

type named struct {
	Name string `json:"name"`
}

type answers struct {
	version  qmp.Version
	target   struct{ Arch string }
	machines []machineReply
	kvm      struct{ Enabled bool }
	types    []struct {
		Name     string `json:"name"`
		Abstract bool   `json:"abstract"`
	}
	options []struct {
		Option     string  `json:"option"`
		Parameters []named `json:"parameters"`
	}
	tpmModels, tpmTypes []string
	properties          [][]named
}

// describe asks a QEMU what it can do, all but its CPUs, in one round trip.
func describe(ctx context.Context, c *qmp.Client) (*Binary, error) {
	a := answers{properties: make([][]named, len(propertiesOf))}
	required := []*qmp.Command{
		{Name: "query-version", Reply: &a.version},
		{Name: "query-target", Reply: &a.target},
		{Name: "query-machines", Reply: &a.machines},
		{Name: "qom-list-types", Reply: &a.types},
		{Name: "query-command-line-options", Reply: &a.options},
	}
	optional := []*qmp.Command{
		{Name: "query-kvm", Reply: &a.kvm},
		{Name: "query-tpm-models", Reply: &a.tpmModels},
		{Name: "query-tpm-types", Reply: &a.tpmTypes},
	}
	for i, name := range propertiesOf {
		optional = append(optional, &qmp.Command{
			Name: "device-list-properties", Args: map[string]string{"typename": name}, Reply: &a.properties[i],
		})
	}
	if err := ask(ctx, c, required, optional); err != nil {
		return nil, err
	}
	return a.binary(), nil
}

// ask runs commands together. Of the optional ones QEMU's refusal is no error: an older or smaller QEMU does not know them.
func ask(ctx context.Context, c *qmp.Client, required, optional []*qmp.Command) error {
	err := c.Batch(ctx, append(slices.Clone(required), optional...)...)
	if err == nil {
		return nil
	}
	for _, cmd := range required {
		if cmd.Err != nil {
			return cmd.Err
		}
	}
	for _, cmd := range optional {
		if cmd.Err != nil && !refused(cmd.Err) {
			return cmd.Err
		}
	}
	return nil
}

func (a *answers) binary() *Binary {
	v := a.version.QEMU
	b := &Binary{
		Arch: archOf(a.target.Arch), Version: uint64(v.Major)*1_000_000 + uint64(v.Minor)*1_000 + uint64(v.Micro),
		Package: a.version.Package, KVM: a.kvm.Enabled, TPMModels: a.tpmModels, TPMTypes: a.tpmTypes,
		Options: map[string][]string{}, Properties: map[string][]string{}, CPUs: map[string]CPUs{},
	}
	for _, m := range a.machines {
		if m.Name == "none" {
			continue
		}
		b.Machines = append(b.Machines, Machine{
			Name: m.Name, Alias: m.Alias, Default: m.IsDefault, MaxCPUs: m.CPUMax, Hotplug: m.Hotplug,
			Deprecated: m.Deprecated, RAMID: m.DefaultRAM, CPU: m.DefaultCPU,
		})
	}
	for _, t := range a.types {
		if !t.Abstract && !strings.HasSuffix(t.Name, "-cpu") && !strings.HasSuffix(t.Name, "-machine") {
			b.Types = append(b.Types, t.Name)
		}
	}
	slices.Sort(b.Types)
	for _, o := range a.options {
		b.Options[o.Option] = sortedNames(o.Parameters)
	}
	for i, props := range a.properties {
		if len(props) > 0 {
			b.Properties[propertiesOf[i]] = sortedNames(props)
		}
	}
	return b
}

func sortedNames(list []named) []string {
	names := make([]string, 0, len(list))
	for _, n := range list {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// describeCPUs asks for the models of CPU under the accelerator that QEMU was started with, in two round trips.
func describeCPUs(ctx context.Context, c *qmp.Client, virtType string) (CPUs, error) {
	var defs []cpuReply
	err := ask(ctx, c, nil, []*qmp.Command{{Name: "query-cpu-definitions", Reply: &defs}})
	if err != nil {
		return CPUs{}, err
	}
	models := unversioned(defs)
	if len(models) > qmp.MaxBatch-1 {
		return CPUs{}, fmt.Errorf("%d models of cpu are too many", len(models))
	}
	best := "max"
	if virtType == "kvm" {
		best = "host"
	}
	expand := make([]expansion, len(models)+1)
	cmds := make([]*qmp.Command, 0, len(expand))
	for i := range expand {
		name := best
		if i < len(models) {
			name = models[i].Name
		}
		cmds = append(cmds, &qmp.Command{Name: "query-cpu-model-expansion", Reply: &expand[i], Args: map[string]any{
			"type": "static", "model": map[string]string{"name": name},
		}})
	}
	if err := ask(ctx, c, nil, cmds); err != nil {
		return CPUs{}, err
	}
	for i := range models {
		models[i].Features = expand[i].features()
	}
	last := expand[len(models)]
	vendor, _ := last.Model.Props["vendor"].(string)
	return CPUs{Models: models, Best: last.features(), Vendor: vendor}, nil
}

// unversioned keeps the models that a person names: not "EPYC-v3", and not the pseudo-models.
func unversioned(defs []cpuReply) []CPUModel {
	targets := map[string]bool{}
	for _, d := range defs {
		if d.AliasOf != "" {
			stem, _, _ := cutVersion(d.AliasOf)
			targets[stem] = true
		}
	}
	var models []CPUModel
	for _, d := range defs {
		stem, _, versioned := cutVersion(d.Name)
		if d.Name == "host" || d.Name == "max" || d.Name == "base" || (versioned && targets[stem]) {
			continue
		}
		m := CPUModel{Name: d.Name, Deprecated: d.Deprecated, Usable: d.Unavailable == nil || len(*d.Unavailable) == 0}
		if d.Unavailable != nil {
			blockers := slices.Clone(*d.Unavailable)
			slices.Sort(blockers)
			m.Blockers = slices.Compact(blockers)
		}
		models = append(models, m)
	}
	return models
}

// cutVersion takes "-v3" off "EPYC-v3".
func cutVersion(name string) (stem, version string, ok bool) {
	i := strings.LastIndex(name, "-v")
	if i < 0 || i+2 == len(name) || strings.Trim(name[i+2:], "0123456789") != "" {
		return name, "", false
	}
	return name[:i], name[i+2:], true
}

type expansion struct {
	Model struct {
		Props map[string]any `json:"props"`
	} `json:"model"`
}

func (e *expansion) features() []string {
	var names []string
	for name, value := range e.Model.Props {
		if on, ok := value.(bool); ok && on {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
