package datastore

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/vmware/govmomi/vmdk"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/webfile"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxDescriptor bounds the text that describes a disk, in bytes.
const maxDescriptor = 64 << 10

// content is where a volume's content lies.
type content struct {
	pool *Pool
	name string
	// file has it, size bytes from its beginning.
	file string
	size uint64
}

// content finds it: a file itself, or the one extent of a disk.
func (p *Pool) content(ctx context.Context, name string) (*content, error) {
	f, err := p.lookAt(ctx, name)
	if err != nil {
		return nil, err
	}
	c := &content{pool: p, name: name, file: name, size: p.volume(f).GetCapacity()}
	if !isDisk(name) {
		return c, nil
	}
	text, err := p.web().Whole(ctx, name, maxDescriptor)
	if err != nil {
		return nil, err
	}
	return c, c.extent(text)
}

// extent takes the place of a disk's content out of its descriptor, which anybody may have written.
func (c *content) extent(text []byte) error {
	d, err := vmdk.ParseDescriptor(bytes.NewReader(text))
	path := c.pool.path(c.name)
	switch {
	case err != nil:
		return refuse(verr.OperationFailed, "descriptor of disk '%s': %w", path, err)
	case !strings.EqualFold(d.Type, "vmfs") || len(d.Extent) != 1 || d.Extent[0].Type != "VMFS":
		return refuse(verr.OperationUnsupported, "disk '%s' of type '%s' with %d extents cannot be read and written: only one that is flat can",
			path, d.Type, len(d.Extent))
	case d.EncryptionKeys != nil:
		return refuse(verr.OperationUnsupported, "disk '%s' is encrypted and cannot be read and written", path)
	}
	file, sectors := d.Extent[0].Info, d.Extent[0].Size
	if !isExtent(file) || sectors < 0 || sectors > maxCapacity/vmdk.SectorSize {
		return refuse(verr.OperationFailed, "descriptor of disk '%s' names the extent %q of %d sectors, which can be none of its own", path, file, sectors)
	}
	folder, _ := dspath.Split(c.name)
	c.file, c.size = dspath.Child(folder, file), uint64(sectors)*vmdk.SectorSize
	return nil
}

// isExtent says whether a name can be that of an extent, which lies beside its descriptor.
func isExtent(name string) bool {
	return dspath.Check(name) == nil && !strings.Contains(name, "/") && strings.HasSuffix(name, ".vmdk")
}

// part checks a part of the content and completes its length.
func (c *content) part(offset, length uint64) (uint64, error) {
	if offset > c.size {
		return 0, refuse(verr.InvalidArg, "volume '%s' of %d bytes has nothing at %d", c.pool.path(c.name), c.size, offset)
	}
	if room := c.size - offset; length == 0 || length > room {
		length = room
	}
	return length, nil
}

// Download opens a volume to read a part of it: of a disk its content as a machine sees it.
func (p *Pool) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	c, err := p.content(ctx, req.GetVolume().GetName())
	if err != nil {
		return nil, err
	}
	length, err := c.part(req.GetOffset(), req.GetLength())
	if err != nil {
		return nil, err
	}
	if length == 0 {
		return &source{}, nil
	}
	r, err := p.web().Open(ctx, c.file, req.GetOffset(), length)
	if err != nil {
		return nil, err
	}
	return &source{reader: r, sparse: req.GetSparse()}, nil
}

// source reads a volume; without a reader it is at its end.
type source struct {
	reader *webfile.Reader
	sparse bool
}

var noughts [webfile.Piece]byte

// Next implements storage.Source. A piece of zeros is a hole, if they are told.
func (s *source) Next(ctx context.Context) ([]byte, uint64, error) {
	if s.reader == nil {
		return nil, 0, io.EOF
	}
	data, err := s.reader.Next(ctx)
	if s.sparse && err == nil && bytes.Equal(data, noughts[:len(data)]) {
		return nil, uint64(len(data)), nil
	}
	return data, 0, err
}

// Close implements storage.Source.
func (s *source) Close() error {
	if s.reader == nil {
		return nil
	}
	return s.reader.Close()
}

var _ storage.Source = (*source)(nil)
