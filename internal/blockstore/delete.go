// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// smallEvent is the room that an event without a payload takes, generously.
const smallEvent = 1 << 10

// Delete removes a block; that there is none is no error. It returns nil only
// when the removal is as durable as the kind demands.
func (s *Store) Delete(ctx context.Context, actor string, p Path, ref Ref) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.delete(ctx, actor, p, ref); err != nil {
		return fmt.Errorf("deleting %s of %s: %w", ref, p, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, actor string, p Path, ref Ref) error {
	inMemory, err := s.mayWrite(ref.Kind)
	if err != nil {
		return err
	}
	if s.opts.AppendOnly && ref.Kind != eventlog.KindLock {
		return ErrAppendOnly
	}
	m, err := s.find(p)
	if err != nil {
		return err
	}
	if inMemory {
		return s.removeInMemory(m, ref)
	}
	if ref.Kind != eventlog.KindLock { // deleting its locks is a barred machine's way out
		if _, err := s.checkBar(ctx, m, p, ref.Kind); err != nil {
			return err
		}
	}
	if err := s.admitSmall(); err != nil {
		return err
	}
	seq, err := s.remove(ctx, actor, p, m, ref)
	if err != nil {
		return err
	}
	return s.acknowledge(ctx, m, eventlog.BlockDeleted, ref.Kind, seq)
}

// admitSmall refuses even small events when the disk is full to the last
// reserve.
func (s *Store) admitSmall() error {
	err := s.opts.Log.AdmitUrgent(smallEvent)
	if err == nil {
		return nil
	}
	return s.receiveError(err)
}

// remove deletes the block if it is live, and returns the seq of the event
// that made it absent, 0 when it never was there.
func (s *Store) remove(ctx context.Context, actor string, p Path, m machine, ref Ref) (eventlog.Seq, error) {
	h, err := s.take(ctx, machineLock(m.id, false), blockLock(m.id, ref))
	if err != nil {
		return 0, err
	}
	defer h.release()
	if err := s.refind(p, m); err != nil {
		return 0, err
	}
	return s.removeLocked(ctx, h, actor, m, ref)
}

// removeLocked is remove under the block's lock, or the whole machine's.
func (s *Store) removeLocked(ctx context.Context, h *held, actor string, m machine, ref Ref) (eventlog.Seq, error) {
	row, found, err := s.opts.Blocks.Latest(m.id, ref.Kind, ref.Bytes())
	switch {
	case err != nil:
		return 0, fmt.Errorf("looking for the block: %w", err)
	case !found:
		return 0, nil
	case row.Deleted != 0:
		return row.Deleted, nil
	}
	return s.write(ctx, h, eventlog.Event{
		Type: eventlog.BlockDeleted, Account: m.account, Machine: m.id, Actor: actor,
		Kind: ref.Kind, Block: ref.Bytes(), Length: row.Length, Checksum: row.Checksum, Undoes: row.Stored,
	}, nil)
}
