//go:build libiscsi && cgo

package libiscsi

/*
#include <stdlib.h>
#include "reply.h"

// Commands; each returns the task that is under way, or nothing.
static struct scsi_task *lodge_ready(struct iscsi_context *i, int lun, void *r) {
	return iscsi_testunitready_task(i, lun, lodge_answered, r);
}
static struct scsi_task *lodge_luns(struct iscsi_context *i, int size, void *r) {
	return iscsi_reportluns_task(i, SCSI_REPORTLUNS_REPORT_ALL_LUNS, size, lodge_answered, r);
}
static struct scsi_task *lodge_inquiry(struct iscsi_context *i, int lun, void *r) {
	return iscsi_inquiry_task(i, lun, 0, 0, 64, lodge_answered, r);
}
static struct scsi_task *lodge_capacity(struct iscsi_context *i, int lun, void *r) {
	return iscsi_readcapacity16_task(i, lun, lodge_answered, r);
}
static struct scsi_task *lodge_read(struct iscsi_context *i, int lun, uint64_t at, uint32_t size, int block, void *r) {
	return iscsi_read16_task(i, lun, at, size, block, 0, 0, 0, 0, 0, lodge_answered, r);
}
static struct scsi_task *lodge_write(struct iscsi_context *i, int lun, uint64_t at, void *data, uint32_t size, int block, void *r) {
	return iscsi_write16_task(i, lun, at, data, size, block, 0, 0, 0, 0, 0, lodge_answered, r);
}
static struct scsi_task *lodge_flush(struct iscsi_context *i, int lun, void *r) {
	return iscsi_synchronizecache16_task(i, lun, 0, 0, 0, 0, lodge_answered, r);
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/scsi"
)

const (
	// firstPause and lastPause bound the time between two tries of a command that a unit is not ready for.
	firstPause = time.Millisecond
	lastPause  = 250 * time.Millisecond
	// becomingReady is the code of a unit that is not ready yet, SPC-4 annex F.
	becomingReady = 0x0401
	// noSuchCommand is the code of a command that a unit does not know.
	noSuchCommand = 0x2000
)

// session implements initiator.Session.
type session struct {
	*connection
	// room is what is written comes from, in C's memory; made when it is needed.
	room unsafe.Pointer
}

// Open implements initiator.Initiator.
func (Initiator) Open(ctx context.Context, login initiator.Login) (initiator.Session, error) {
	if login.Target == "" {
		return nil, errors.New("a login needs the name of a target")
	}
	c, err := open(ctx, login)
	if err != nil {
		return nil, err
	}
	return &session{connection: c}, nil
}

// Close implements initiator.Session.
func (s *session) Close() {
	s.close()
	C.free(s.room)
}

// task makes a command's task; the reply is the callback's.
type task func(reply unsafe.Pointer) *C.struct_scsi_task

// command sends a command until the unit takes it, and hands its data to got, if that is not nil.
func (s *session) command(ctx context.Context, what string, begin task, got func([]byte) error) error {
	until := time.Now().Add(s.timeout)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := s.once(ctx, what, begin, got)
		var check *initiator.CheckError
		if !errors.As(err, &check) || !passing(check) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// passing reports whether a command may well succeed when it is sent again: a unit tells with its first answer what has happened to it.
func passing(e *initiator.CheckError) bool {
	switch e.Status {
	case C.SCSI_STATUS_BUSY, C.SCSI_STATUS_TASK_SET_FULL:
		return true
	case C.SCSI_STATUS_CHECK_CONDITION:
		return e.Key == C.SCSI_SENSE_UNIT_ATTENTION || e.Key == C.SCSI_SENSE_NOT_READY && e.Code == becomingReady
	}
	return false
}

// once sends a command once.
func (s *session) once(ctx context.Context, what string, begin task, got func([]byte) error) error {
	if s.broken != nil {
		return s.broken
	}
	*s.reply = C.struct_lodge_reply{}
	t := begin(unsafe.Pointer(s.reply))
	if t == nil {
		return s.failure(what, initiator.ErrLost)
	}
	if err := s.wait(ctx, what); err != nil {
		s.pending = t
		return err
	}
	defer C.scsi_free_scsi_task(t)
	if status := int(s.reply.status); status != C.SCSI_STATUS_GOOD {
		words := strings.TrimSpace(C.GoString(C.iscsi_get_error(s.iscsi)))
		return &initiator.CheckError{Command: what, Status: status, Key: int(t.sense.key), Code: int(t.sense.ascq), Words: words}
	}
	if got == nil {
		return nil
	}
	return got(unsafe.Slice((*byte)(t.datain.data), int(t.datain.size)))
}

// LUNs implements initiator.Session.
func (s *session) LUNs(ctx context.Context) (all []int, err error) {
	err = s.command(ctx, "list units", func(r unsafe.Pointer) *C.struct_scsi_task {
		return C.lodge_luns(s.iscsi, scsi.ReportSize, r)
	}, func(data []byte) (err error) {
		all, err = scsi.ParseLUNs(data)
		return err
	})
	return all, err
}

// unit implements initiator.Unit.
type unit struct {
	s        *session
	lun      C.int
	capacity scsi.Capacity
}

// Unit implements initiator.Session.
func (s *session) Unit(ctx context.Context, lun int) (initiator.Unit, error) {
	u := &unit{s: s, lun: C.int(lun)}
	isDisk := false
	err := s.command(ctx, "inquire", func(r unsafe.Pointer) *C.struct_scsi_task { return C.lodge_inquiry(s.iscsi, u.lun, r) },
		func(data []byte) (err error) {
			isDisk, err = scsi.IsDisk(data)
			return err
		})
	if err == nil && !isDisk {
		err = initiator.ErrNotDisk
	}
	if err == nil {
		err = s.command(ctx, "wait until it is ready", func(r unsafe.Pointer) *C.struct_scsi_task { return C.lodge_ready(s.iscsi, u.lun, r) }, nil)
	}
	if err == nil {
		err = s.command(ctx, "read its capacity", func(r unsafe.Pointer) *C.struct_scsi_task { return C.lodge_capacity(s.iscsi, u.lun, r) },
			func(data []byte) (err error) {
				u.capacity, err = scsi.ParseCapacity(data)
				return err
			})
	}
	if err != nil {
		return nil, fmt.Errorf("unit %d: %w", lun, err)
	}
	return u, nil
}

// Capacity implements initiator.Unit.
func (u *unit) Capacity() scsi.Capacity { return u.capacity }

// bounds refuses what is no whole number of blocks, too much at once, or beyond the end.
func (u *unit) bounds(block uint64, size int) error {
	n := uint64(size) / uint64(u.capacity.BlockSize)
	if n*uint64(u.capacity.BlockSize) != uint64(size) || size > initiator.MaxPiece || block > u.capacity.Blocks || n > u.capacity.Blocks-block {
		return fmt.Errorf("%d bytes at block %d are not blocks of a disk of %d", size, block, u.capacity.Blocks)
	}
	return nil
}

// Read implements initiator.Unit.
func (u *unit) Read(ctx context.Context, block uint64, data []byte) error {
	if err := u.bounds(block, len(data)); err != nil || len(data) == 0 {
		return err
	}
	return u.s.command(ctx, fmt.Sprintf("read block %d", block), func(r unsafe.Pointer) *C.struct_scsi_task {
		return C.lodge_read(u.s.iscsi, u.lun, C.uint64_t(block), C.uint32_t(len(data)), C.int(u.capacity.BlockSize), r)
	}, func(got []byte) error {
		if len(got) != len(data) {
			return fmt.Errorf("read block %d: %w", block, scsi.ErrShort)
		}
		copy(data, got)
		return nil
	})
}

// Write implements initiator.Unit.
func (u *unit) Write(ctx context.Context, block uint64, data []byte) error {
	if err := u.bounds(block, len(data)); err != nil || len(data) == 0 {
		return err
	}
	if u.s.room == nil {
		u.s.room = C.malloc(initiator.MaxPiece)
	}
	// The library reads it after this call's begin, so it cannot be Go's memory.
	copy(unsafe.Slice((*byte)(u.s.room), len(data)), data)
	return u.s.command(ctx, fmt.Sprintf("write block %d", block), func(r unsafe.Pointer) *C.struct_scsi_task {
		return C.lodge_write(u.s.iscsi, u.lun, C.uint64_t(block), u.s.room, C.uint32_t(len(data)), C.int(u.capacity.BlockSize), r)
	}, nil)
}

// Flush implements initiator.Unit. A unit that does not know how has no cache.
func (u *unit) Flush(ctx context.Context) error {
	err := u.s.command(ctx, "flush", func(r unsafe.Pointer) *C.struct_scsi_task { return C.lodge_flush(u.s.iscsi, u.lun, r) }, nil)
	var check *initiator.CheckError
	if errors.As(err, &check) && check.Key == C.SCSI_SENSE_ILLEGAL_REQUEST && check.Code == noSuchCommand {
		return nil
	}
	return err
}
