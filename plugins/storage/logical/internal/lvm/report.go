package lvm

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

const (
	// maxDepth is how many volumes may lie on each other: a cached snapshot of a mirror with a log has six.
	maxDepth = 8
	// maxRanges bounds what is looked at to find where one volume lies.
	maxRanges = 1 << 16
)

// Size is a group's room.
type Size struct {
	// Total and Free are bytes; Extent is the unit of volumes' sizes in bytes.
	Total, Free, Extent uint64
}

// Volume is a logical volume as lvs(8) tells it.
type Volume struct {
	Name, UUID string
	// Attr are its ten attributes.
	Attr string
	// Size is what it takes of the group, Origin what it is a snapshot of, or empty, and OriginSize the size of that, in bytes.
	Size, OriginSize uint64
	Origin           string
	// Filled is how much of a thin volume is in use, in hundredths of a percent.
	Filled uint64
	// Hidden says that it is a part of another one, and has no device for others.
	Hidden bool
	// Extents are where it lies on the group's devices, in bytes after the place where their extents begin.
	Extents []*pb.Extent
}

// Snapshot reports whether it keeps what differs from its origin in room of its own.
func (v *Volume) Snapshot() bool { return v.is(0, "sS") }

// Thin reports whether its room is that of a thin pool.
func (v *Volume) Thin() bool { return v.is(0, "V") }

// Pool reports whether it is no volume but room for others.
func (v *Volume) Pool() bool { return v.is(0, "tTdDC") }

// Inactive reports whether it has no device because it is not activated.
func (v *Volume) Inactive() bool { return v.is(4, "-") }

// Skipped reports whether it is left alone when the group is activated.
func (v *Volume) Skipped() bool { return v.is(9, "k") }

// Partial reports whether a device of it is missing.
func (v *Volume) Partial() bool { return v.is(8, "p") }

func (v *Volume) is(at int, letters string) bool {
	return at < len(v.Attr) && strings.IndexByte(letters, v.Attr[at]) >= 0
}

// Capacity is the size of its device in bytes.
func (v *Volume) Capacity() uint64 {
	if v.Snapshot() && v.OriginSize > 0 {
		return v.OriginSize
	}
	return v.Size
}

// Allocation is the room that it takes in bytes.
func (v *Volume) Allocation() uint64 {
	if v.Thin() {
		return uint64(float64(v.Size) / 10000 * float64(v.Filled))
	}
	return v.Size
}

// segment is a row of lvs(8): one for each piece of a volume.
type segment struct {
	Name       string `json:"lv_name"`
	UUID       string `json:"lv_uuid"`
	Attr       string `json:"lv_attr"`
	Size       string `json:"lv_size"`
	Origin     string `json:"origin"`
	OriginSize string `json:"origin_size"`
	Filled     string `json:"data_percent"`
	Ranges     string `json:"seg_pe_ranges"`
	Extent     string `json:"vg_extent_size"`
}

// segmentFields are the fields of segment.
const segmentFields = "lv_name,lv_uuid,lv_attr,lv_size,origin,origin_size,data_percent,seg_pe_ranges,vg_extent_size"

type segments struct {
	Report []struct {
		Segments []segment `json:"lv"`
	} `json:"report"`
}

// Volumes returns all volumes, hidden ones too, by name. A group that is not there is ErrNoGroup.
func (g Group) Volumes(ctx context.Context) ([]*Volume, error) {
	var all segments
	err := g.look(ctx, &all, "lvs", "--all", "--sort", "lv_name,seg_start", "--options", segmentFields, g.Name)
	if err != nil {
		return nil, err
	}
	return all.volumes(), nil
}

// volumes puts the rows of each volume together.
func (s segments) volumes() []*Volume {
	var all []*Volume
	rows := map[string][]segment{}
	for _, r := range s.Report {
		for _, row := range r.Segments {
			v := row.volume()
			if rows[v.Name] == nil {
				all = append(all, v)
			}
			rows[v.Name] = append(rows[v.Name], row)
		}
	}
	for _, v := range all {
		v.Extents = extents(v.Name, rows)
	}
	return all
}

func (s segment) volume() *Volume {
	v := &Volume{
		UUID: s.UUID, Attr: s.Attr, Size: number(s.Size), OriginSize: number(s.OriginSize), Hidden: strings.HasPrefix(s.Name, "["),
		Name: strings.Trim(s.Name, "[]"),
	}
	if !strings.HasPrefix(s.Origin, "[") { // a hidden origin is the empty one that a sparse volume has
		v.Origin = s.Origin
	}
	if percent, err := strconv.ParseFloat(s.Filled, 64); err == nil && percent > 0 {
		v.Filled = uint64(min(percent, 100) * 100)
	}
	return v
}

// number reads a size; an empty one is 0.
func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 63) // what is no number is told as nothing
	return n
}

// extents finds out where a volume lies: on devices, or on other volumes that do.
func extents(name string, rows map[string][]segment) []*pb.Extent {
	var all []*pb.Extent
	left := maxRanges
	var walk func(name string, depth int)
	walk = func(name string, depth int) {
		for _, row := range rows[name] {
			unit := number(row.Extent)
			for _, r := range strings.Fields(row.Ranges) {
				device, first, last, ok := parseRange(r)
				left--
				switch {
				case !ok || left < 0 || last >= 1<<32 || unit >= 1<<31:
				case strings.HasPrefix(device, "/"):
					all = append(all, &pb.Extent{Device: device, Start: first * unit, End: (last + 1) * unit})
				case depth > 0:
					walk(device, depth-1)
				}
			}
		}
	}
	walk(name, maxDepth)
	return all
}

// parseRange reads DEVICE:FIRST-LAST.
func parseRange(text string) (device string, first, last uint64, ok bool) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return "", 0, 0, false
	}
	from, to, _ := strings.Cut(text[colon+1:], "-")
	first, errFirst := strconv.ParseUint(from, 10, 63)
	last, errLast := strconv.ParseUint(to, 10, 63)
	return text[:colon], first, last, errFirst == nil && errLast == nil && first <= last
}

// Size returns the group's room. A group that is not there is ErrNoGroup.
func (g Group) Size(ctx context.Context) (Size, error) {
	var all struct {
		Report []struct {
			Groups []struct {
				Size   string `json:"vg_size"`
				Free   string `json:"vg_free"`
				Extent string `json:"vg_extent_size"`
			} `json:"vg"`
		} `json:"report"`
	}
	if err := g.look(ctx, &all, "vgs", "--options", "vg_size,vg_free,vg_extent_size", g.Name); err != nil {
		return Size{}, err
	}
	if len(all.Report) != 1 || len(all.Report[0].Groups) != 1 {
		return Size{}, fmt.Errorf("vgs told of no or several groups: %w", ErrNoGroup)
	}
	v := all.Report[0].Groups[0]
	return Size{number(v.Size), number(v.Free), number(v.Extent)}, nil
}

// Device is a physical volume; one that belongs to no group has an empty one.
type Device struct {
	Path  string `json:"pv_name"`
	Group string `json:"vg_name"`
}

// Devices returns all physical volumes.
func (l LVM) Devices(ctx context.Context) ([]Device, error) {
	var all struct {
		Report []struct {
			Devices []Device `json:"pv"`
		} `json:"report"`
	}
	c := l.report("pvs", []string{"--options", "pv_name,vg_name"})
	text, err := c.Output(ctx)
	if err != nil {
		return nil, explain("pvs", err)
	}
	if err := decode("pvs", text, &all); err != nil || len(all.Report) == 0 {
		return nil, err
	}
	return all.Report[0].Devices, nil
}
