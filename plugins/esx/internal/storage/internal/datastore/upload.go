package datastore

import (
	"context"
	"errors"
	"io"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/webfile"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Upload opens a volume to write a part of it. Endpoints take whole files only: a new one is made of the part and of what is around it,
// and takes the old one's place at the end.
func (p *Pool) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	c, err := p.content(ctx, begin.GetVolume().GetName())
	if err != nil {
		return nil, err
	}
	length, err := c.part(begin.GetOffset(), begin.GetLength())
	if err != nil {
		return nil, err
	}
	work := p.begin(c.file)
	w, err := p.web().Create(ctx, work.work, c.size)
	if err != nil {
		return nil, err
	}
	return &sink{content: c, making: work, writer: w, offset: begin.GetOffset(), left: length}, nil
}

// sink writes a volume.
type sink struct {
	content *content
	making  *making
	writer  *webfile.Writer
	// at is how much of the new file is written, offset where the next bytes belong, left how many may still come.
	at, offset, left uint64
}

// errTooMuch is what is written behind the end.
var errTooMuch = errors.New("more is written than the volume, or the part of it that was named, has room for")

// Write implements storage.Sink.
func (s *sink) Write(ctx context.Context, data []byte) error {
	if uint64(len(data)) > s.left {
		return refuse(verr.InvalidArg, "upload to '%s': %w", s.content.pool.path(s.content.name), errTooMuch)
	}
	if err := s.fill(ctx, s.offset); err != nil {
		return err
	}
	if err := s.writer.Write(ctx, data); err != nil {
		return err
	}
	n := uint64(len(data))
	s.at, s.offset, s.left = s.at+n, s.offset+n, s.left-n
	return nil
}

// Hole implements storage.Sink. It is written as zeros.
func (s *sink) Hole(ctx context.Context, length uint64) error {
	if length > s.left {
		return refuse(verr.InvalidArg, "upload to '%s': %w", s.content.pool.path(s.content.name), errTooMuch)
	}
	for length > 0 {
		n := min(length, webfile.Piece)
		if err := s.Write(ctx, noughts[:n]); err != nil {
			return err
		}
		length -= n
	}
	return nil
}

// fill takes what the old file has up to a place over to the new one.
func (s *sink) fill(ctx context.Context, to uint64) error {
	if s.at >= to {
		return nil
	}
	r, err := s.content.pool.web().Open(ctx, s.content.file, s.at, to-s.at)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for {
		data, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.writer.Write(ctx, data)
		}
		if err != nil {
			return err
		}
		s.at += uint64(len(data))
	}
}

// Finish implements storage.Sink.
func (s *sink) Finish(ctx context.Context) error {
	if s.at == 0 && s.content.size > 0 { // nothing was written
		s.Abort()
		return nil
	}
	err := s.fill(ctx, s.content.size)
	if err != nil {
		s.writer.Abort()
	} else {
		err = s.writer.Finish(ctx)
	}
	if err == nil {
		err = s.content.pool.moveFile(ctx, s.making.work, s.content.file, true)
	}
	if err != nil {
		return s.undo(ctx, err)
	}
	return nil
}

// Abort implements storage.Sink.
func (s *sink) Abort() {
	s.writer.Abort()
	err := s.undo(context.Background(), refuse(verr.OperationAborted, "upload to '%s' was given up", s.content.pool.path(s.content.name)))
	s.content.pool.place.Log.Debug("upload given up", "error", err)
}

// undo removes the new file. It is one file, also where it is to be the extent of a disk.
func (s *sink) undo(ctx context.Context, err error) error {
	return s.content.pool.undo(ctx, s.making.work, s.content.pool.removeWritten, err)
}

var _ storage.Sink = (*sink)(nil)
