// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// put is one block on its way in. It belongs to the goroutine of its request.
type put struct {
	actor    string
	path     Path
	ref      Ref
	machine  machine
	body     *eventlog.Body
	reserved *reservation // of the account's quota
	appended bool         // the log owns body
}

// Put reads body to its end, checks its hash against ref and stores it; size
// is its length, -1 when the client did not say. It returns nil only when the
// block is as durable as its kind demands. A block that is there already, with
// the same content, is stored. body is not touched after Put returned.
func (s *Store) Put(ctx context.Context, actor string, p Path, ref Ref, body io.Reader, size int64) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	if err := s.put(ctx, &put{actor: actor, path: p, ref: ref}, body, size); err != nil {
		return fmt.Errorf("storing %s of %s: %w", ref, p, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, w *put, body io.Reader, size int64) error {
	inMemory, err := s.mayWrite(w.ref.Kind)
	if err != nil {
		return err
	}
	if w.machine, err = s.find(w.path); err != nil {
		return err
	}
	if inMemory {
		return s.putInMemory(ctx, w, body, size)
	}
	if _, err := s.checkBar(ctx, w.machine, w.path, w.ref.Kind); err != nil {
		return err
	}
	if err := s.receive(ctx, w, body, size); err != nil {
		return err
	}
	defer w.letGo()
	seq, err := s.store(ctx, w)
	if err != nil {
		return err
	}
	return s.acknowledge(ctx, w.machine, eventlog.BlockStored, w.ref.Kind, seq)
}

// maxUrgent is the largest lock, whose body may use the disk's last reserve.
const maxUrgent = 1 << 20

// letGo gives back what w holds.
func (w *put) letGo() {
	w.reserved.giveBack()
	if !w.appended {
		w.body.Release()
	}
}

// receive takes the whole body in, within the quota, and checks its hash.
// Nothing is kept when it fails.
func (s *Store) receive(ctx context.Context, w *put, body io.Reader, size int64) error {
	limit, err := s.admitBody(ctx, w, size)
	if err != nil {
		return err
	}
	if w.ref.Kind == eventlog.KindLock { // making room begins with a lock
		w.body, err = s.opts.Log.ReceiveUrgent(body, size, min(limit, maxUrgent))
	} else {
		w.body, err = s.opts.Log.Receive(ctx, body, size, limit)
	}
	if err != nil {
		w.reserved.giveBack()
		if errors.Is(err, eventlog.ErrTooLarge) && limit < s.opts.MaxBody {
			return fmt.Errorf("%w: %w", ErrQuota, err)
		}
		return s.receiveError(err)
	}
	if err := s.checkHash(w); err != nil {
		w.letGo()
		return err
	}
	return nil
}

// admitBody says how many bytes w may have, and refuses before they are read
// what is too large or over the quota. A block that is there already passes
// without quota, because it will take no room.
func (s *Store) admitBody(ctx context.Context, w *put, size int64) (limit int64, err error) {
	if size > s.opts.MaxBody {
		return 0, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, s.opts.MaxBody)
	}
	if !s.quota.counts(w.ref.Kind) {
		return s.opts.MaxBody, nil
	}
	w.reserved, err = s.reserve(ctx, w.machine.account, uint64(max(size, 0)))
	if errors.Is(err, ErrQuota) {
		return s.opts.MaxBody, s.unlessLive(w, err)
	}
	if err != nil || size >= 0 {
		return s.opts.MaxBody, err
	}
	return min(s.opts.MaxBody, w.reserved.room), nil
}

// unlessLive returns refusal unless the block is there already.
func (s *Store) unlessLive(w *put, refusal error) error {
	_, live, err := s.opts.Blocks.Live(w.machine.id, w.ref.Kind, w.ref.Bytes())
	if err != nil {
		return fmt.Errorf("looking for the block: %w", err)
	}
	if live {
		return nil
	}
	return refusal
}

// receiveError turns the log's refusals into the application's.
func (s *Store) receiveError(err error) error {
	switch {
	case s.opts.Log.Err() != nil:
		return s.haltedBy()
	case errors.Is(err, eventlog.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, eventlog.ErrShortBody):
		return fmt.Errorf("%w: %w", ErrShortBody, err)
	case errors.Is(err, eventlog.ErrDiskFull):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case errors.Is(err, eventlog.ErrBacklog):
		return &Unavailable{Reason: "too much waits for the archive: a retry succeeds once it has drained", RetryAfter: 2 * retrySoon, Err: err}
	case errors.Is(err, eventlog.ErrTooMany), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &Unavailable{Reason: "the server has no room for the body now: nothing was stored", RetryAfter: 2 * retrySoon, Err: err}
	}
	return fmt.Errorf("receiving the body: %w", err)
}

// checkHash compares the body with the name that it came under. The config
// has no name.
func (s *Store) checkHash(w *put) error {
	if w.ref.Kind == eventlog.KindConfig || w.body.SHA256 == w.ref.Name {
		return nil
	}
	_, live, err := s.opts.Blocks.Live(w.machine.id, w.ref.Kind, w.ref.Bytes())
	if err != nil {
		return fmt.Errorf("looking for the block: %w", err)
	}
	if live {
		return ErrExists
	}
	return fmt.Errorf("%w: it is %x", ErrMismatch, w.body.SHA256)
}

// store decides under the block's lock what is to happen, and makes it
// happen. It returns the seq of the event that made the block live.
func (s *Store) store(ctx context.Context, w *put) (eventlog.Seq, error) {
	barred, err := s.checkBar(ctx, w.machine, w.path, w.ref.Kind)
	if err != nil {
		return 0, err
	}
	// Lifting a bar is an event about the machine: nobody else may write then.
	h, err := s.take(ctx, machineLock(w.machine.id, barred), blockLock(w.machine.id, w.ref))
	if err != nil {
		return 0, err
	}
	defer h.release()
	if err := s.refind(w.path, w.machine); err != nil {
		return 0, err
	}
	row, known, err := s.opts.Blocks.Latest(w.machine.id, w.ref.Kind, w.ref.Bytes())
	if err != nil {
		return 0, fmt.Errorf("looking for the block: %w", err)
	}
	live := known && row.Deleted == 0
	if live && !s.lost(w, row) {
		return row.Stored, s.sameContent(ctx, w, row)
	}
	var reuses eventlog.Seq
	if known && !live {
		reuses = s.retained(w, row)
	}
	if live {
		// Nobody can read what is stored, and the client brings it anew. A crash
		// between the two events leaves the block absent; it was not to be had
		// before either, and the client was not answered.
		s.log.Warn("a damaged block is replaced by what a client brings", "block", w.ref.String(), "stored", row.Stored.String())
		if _, err := s.removeLocked(ctx, h, w.actor, w.machine, w.ref); err != nil {
			return 0, err
		}
	}
	if barred {
		if err := s.liftForLock(ctx, h, w); err != nil {
			return 0, err
		}
	}
	return s.appendStored(ctx, h, w, reuses)
}

// lost reports whether the payload of a live row was found damaged in every
// copy, by a read of this process, and w brings the same content. A config has
// no hash that could say so.
func (s *Store) lost(w *put, row projector.BlockRow) bool {
	if w.ref.Kind == eventlog.KindConfig || row.Length != w.body.Length || row.Checksum != w.body.Checksum {
		return false
	}
	place, err := s.opts.Blocks.Placement(row)
	return err == nil && s.pages.isDamaged(place)
}

// sameContent returns nil when the live row holds what w brings. The hash of
// a named block has proven that; the config must be compared.
func (s *Store) sameContent(ctx context.Context, w *put, row projector.BlockRow) error {
	if row.Length != w.body.Length || row.Checksum != w.body.Checksum {
		return ErrExists
	}
	if w.ref.Kind != eventlog.KindConfig {
		return nil
	}
	r, err := s.openRow(ctx, row, 0, int64(row.Length))
	if err != nil {
		return fmt.Errorf("comparing with the config that exists: %w", err)
	}
	sum := sha256.New()
	_, err = io.Copy(sum, r)
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("comparing with the config that exists: %w", err)
	}
	if [sha256.Size]byte(sum.Sum(nil)) != w.body.SHA256 {
		return ErrExists
	}
	return nil
}

// appendStored appends the store of a block that is not live. When it reuses the
// payload of an earlier life, no bytes are written.
func (s *Store) appendStored(ctx context.Context, h *held, w *put, reuses eventlog.Seq) (eventlog.Seq, error) {
	if err := s.reserveAll(ctx, w); err != nil {
		return 0, err
	}
	ev := eventlog.Event{
		Type: eventlog.BlockStored, Account: w.machine.account, Machine: w.machine.id, Actor: w.actor,
		Kind: w.ref.Kind, Block: w.ref.Bytes(), Length: w.body.Length, Checksum: w.body.Checksum, Reuses: reuses,
	}
	// Like the locks, the room belongs to the event from here on: until the views
	// count the block, nobody else may have it, whether the client waits or not.
	h.reserved, w.reserved = w.reserved, nil
	if reuses != 0 {
		return s.write(ctx, h, ev, nil)
	}
	w.appended = true
	return s.write(ctx, h, ev, w.body)
}

// reserveAll reserves what was not reserved before the body came: its length
// was not declared, or it was live then and was deleted meanwhile.
func (s *Store) reserveAll(ctx context.Context, w *put) error {
	if !s.quota.counts(w.ref.Kind) || w.reserved != nil && w.reserved.bytes >= w.body.Length {
		return nil
	}
	w.reserved.giveBack()
	var err error
	w.reserved, err = s.reserve(ctx, w.machine.account, w.body.Length)
	return err
}

// retained returns the event whose payload a block can have again that was
// deleted, as row says, 0 for none. Only what the hash has proven equal counts,
// and nothing whose payload was found damaged: what the client brings is the
// cure.
func (s *Store) retained(w *put, row projector.BlockRow) eventlog.Seq {
	if w.ref.Kind == eventlog.KindConfig || row.Length == 0 || row.Length != w.body.Length || row.Checksum != w.body.Checksum {
		return 0
	}
	place, err := s.opts.Blocks.Placement(row)
	if err != nil || s.pages.isDamaged(place) {
		s.log.Info("a deleted block's payload is not used again", "block", w.ref.String(), "stored", row.Stored.String(), "err", err)
		return 0
	}
	if row.Reuses != 0 {
		return row.Reuses
	}
	return row.Stored
}
