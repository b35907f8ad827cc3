// SPDX-License-Identifier: Apache-2.0

package drill

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// readBack reads blocks of the rebuilt views from row to bytes: random ones
// over all machines, then those of one random machine.
func (d *drill) readBack(ctx context.Context) (err error) {
	if d.Sample <= 0 && d.MachineBlocks <= 0 {
		return nil
	}
	r := &reader{drill: d, random: rand.New(rand.NewPCG(d.Seed, 0x5742414e44)), seen: map[eventlog.Seq]bool{}, chunk: make([]byte, eventlog.ChunkSize)}
	if r.machines, err = projector.OpenMachineView(d.Engine, filepath.Join(d.viewsDir(), projector.Machines().Name()), projector.ReadOnly, d.Log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.machines.Close()) }()
	if r.blocks, err = projector.OpenBlockView(d.Engine, filepath.Join(d.viewsDir(), projector.Blocks().Name()), projector.ReadOnly, d.Log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.blocks.Close()) }()
	if err := r.weigh(ctx); err != nil || len(r.holders) == 0 {
		return err
	}
	if err := r.sample(ctx); err != nil {
		return err
	}
	return r.machine(ctx)
}

// reader reads blocks back.
type reader struct {
	*drill
	machines *projector.MachineView
	blocks   *projector.BlockView
	random   *rand.Rand
	holders  []holder
	total    uint64                // blocks of all holders
	seen     map[eventlog.Seq]bool // stores whose bytes were read
	chunk    []byte
	lost     []eventlog.Range // whose payloads the log lets go, once looked
	looked   bool
}

// holder is a machine with blocks.
type holder struct {
	id     eventlog.Seq
	blocks uint64
}

// weigh finds out which machines hold how many blocks.
func (r *reader) weigh(ctx context.Context) error {
	for machine, err := range r.machines.Machines(ctx) {
		if err != nil {
			return err
		}
		totals, err := r.machines.Totals(machine.ID)
		if err != nil {
			return err
		}
		if totals.Blocks > 0 {
			r.holders = append(r.holders, holder{machine.ID, totals.Blocks})
			r.total += totals.Blocks
		}
	}
	return nil
}

// budget is how much may be read.
type budget struct{ blocks, bytes uint64 }

// take reports whether a block of so many bytes is within it; the first one
// always is.
func (b *budget) take(read *budget, length uint64) bool {
	if read.blocks >= b.blocks || read.blocks > 0 && read.bytes+length > b.bytes {
		return false
	}
	read.blocks, read.bytes = read.blocks+1, read.bytes+length
	return true
}

// sample reads random blocks over all machines; all of them, when there are
// not more.
func (r *reader) sample(ctx context.Context) error {
	most, read := budget{uint64(max(r.Sample, 0)), r.SampleBytes}, budget{}
	r.Progress.Start("read back random blocks", int64(min(most.blocks, r.total)))
	for i := 0; i < len(r.holders) && r.total <= most.blocks; i++ {
		if whole, err := r.all(ctx, r.holders[i], &most, &read); err != nil {
			return err
		} else if !whole {
			r.overBound(&most, &read)
			break
		}
	}
	if r.total <= most.blocks {
		return nil
	}
	for tries := uint64(0); read.blocks < most.blocks && tries < 8*most.blocks; tries++ {
		row, found, err := r.pick(ctx, tries)
		if err != nil {
			return err
		}
		if !found || r.seen[row.Stored] {
			continue
		}
		if !most.take(&read, row.Length) {
			r.overBound(&most, &read)
			return nil
		}
		if err := r.check(ctx, row); err != nil {
			return err
		}
		r.Progress.Add(1)
	}
	return nil
}

func (r *reader) overBound(most, read *budget) {
	r.remark("%d random blocks were read back, not %d: more would have been over the bound of %d bytes", read.blocks, min(most.blocks, r.total), most.bytes)
}

// otherKinds are those of which a machine has few blocks.
var otherKinds = []eventlog.Kind{eventlog.KindRoot, eventlog.KindIndex, eventlog.KindKey, eventlog.KindConfig, eventlog.KindLock}

// pick chooses a live block: every other time of a machine as likely as it has
// blocks, else of any; data mostly, because most blocks are, every fourth time
// another kind. Names are hashes, so what follows a random one is random.
func (r *reader) pick(ctx context.Context, try uint64) (projector.BlockRow, bool, error) {
	machine := r.holders[r.random.IntN(len(r.holders))].id
	if try%2 == 0 {
		at := r.random.Uint64N(r.total)
		for _, h := range r.holders {
			if at < h.blocks {
				machine = h.id
				break
			}
			at -= h.blocks
		}
	}
	kind := eventlog.KindData
	if try%4 == 3 {
		kind = otherKinds[r.random.IntN(len(otherKinds))]
	}
	row, found, err := r.near(ctx, machine, kind)
	if err != nil || found {
		return row, found, err
	}
	for _, kind := range append([]eventlog.Kind{eventlog.KindData}, otherKinds...) {
		if row, found, err = r.near(ctx, machine, kind); err != nil || found {
			return row, found, err
		}
	}
	return row, false, nil
}

// near returns a random block of a kind.
func (r *reader) near(ctx context.Context, machine eventlog.Seq, kind eventlog.Kind) (projector.BlockRow, bool, error) {
	var name [sha256.Size]byte
	for i := 0; i < len(name); i += 8 {
		binary.BigEndian.PutUint64(name[i:], r.random.Uint64())
	}
	row, found, err := r.blocks.AtOrAfter(ctx, machine, kind, name[:])
	if err == nil && !found {
		row, found, err = r.blocks.AtOrAfter(ctx, machine, kind, nil)
	}
	return row, found, err
}

// machine reads all blocks of one random machine, as far as the bounds allow.
func (r *reader) machine(ctx context.Context) error {
	if r.MachineBlocks <= 0 {
		return nil
	}
	chosen := r.holders[r.random.IntN(len(r.holders))]
	r.result.Drill.Machine = chosen.id
	most, read := budget{uint64(r.MachineBlocks), r.MachineBytes}, budget{}
	r.Progress.Start("read back one machine's blocks", int64(min(chosen.blocks, most.blocks)))
	whole, err := r.all(ctx, chosen, &most, &read)
	switch {
	case err != nil:
		return err
	case !whole:
		r.remark("%d of the %d blocks of machine %s were read back: the rest is over the bound of %d blocks or %d bytes", read.blocks, chosen.blocks, chosen.id, most.blocks, most.bytes)
	case read.blocks != chosen.blocks:
		r.found(fmt.Sprintf("machine %s has %d blocks, its total says %d", chosen.id, read.blocks, chosen.blocks))
	}
	return nil
}

// all reads the blocks of a machine, few kinds first, as far as the budget
// allows: then they were not the whole.
func (r *reader) all(ctx context.Context, machine holder, most, read *budget) (whole bool, err error) {
	for _, kind := range append(otherKinds[:len(otherKinds):len(otherKinds)], eventlog.KindData) {
		for row, err := range r.blocks.List(ctx, machine.id, kind, 0) {
			if err != nil {
				return false, err
			}
			if !most.take(read, row.Length) {
				return false, nil
			}
			if !r.seen[row.Stored] {
				if err := r.check(ctx, row); err != nil {
					return false, err
				}
			}
			r.Progress.Add(1)
		}
	}
	return true, nil
}

// maxDamaged bounds how many damaged blocks are named.
const maxDamaged = 20

// check reads one block. That it is not whole is a finding, no error.
func (r *reader) check(ctx context.Context, row projector.BlockRow) error {
	r.seen[row.Stored] = true
	err := r.checkBytes(ctx, row)
	if errors.Is(err, archiver.ErrOlderState) && !r.repeated {
		r.repeated = true
		if err := archiver.Pause(ctx, repeatPause); err != nil {
			return err
		}
		err = r.checkBytes(ctx, row)
		r.repeated = err != nil // the next block has a try of its own
	}
	if err == nil {
		r.result.Drill.Blocks++
		r.result.Drill.BlockSize += row.Length
		return nil
	}
	name := fmt.Sprintf("%s block %x of machine %s, stored by event %s", row.Kind, row.Name, row.Machine, row.Stored)
	if ctx.Err() != nil || !r.proves(err) {
		return fmt.Errorf("reading back %s: %w", name, err)
	}
	if lost, looked := r.isLost(ctx, row); looked != nil {
		return fmt.Errorf("reading back %s: %w", name, looked)
	} else if lost && errors.Is(err, errWrong) { // its bytes may differ; its object may not be gone
		if len(r.result.Damaged) < maxDamaged {
			r.result.Damaged = append(r.result.Damaged, name+": lost, as the log says: its payload had rotted before it was archived")
		}
		return nil
	}
	if len(r.result.Damaged) < maxDamaged {
		r.result.Damaged = append(r.result.Damaged, fmt.Sprintf("%s: %v", name, err))
		r.found(fmt.Sprintf("%s: %v", name, err))
	}
	return nil
}

// isLost reports whether the log itself lets go of row's payload. It is asked of
// what is not whole, once: that takes all of the log.
func (r *reader) isLost(ctx context.Context, row projector.BlockRow) (bool, error) {
	if !r.looked {
		lost, err := recovery.Rotten(ctx, r.Archive)
		if err != nil {
			return false, fmt.Errorf("look through the log for what it lets go: %w", err)
		}
		r.lost, r.looked = lost, true
	}
	brought := row.Stored
	if row.Reuses != 0 {
		brought = row.Reuses
	}
	return slices.ContainsFunc(r.lost, func(scope eventlog.Range) bool { return scope.Contains(brought) }), nil
}

// readLimit is how long one block is tried again while the store does not
// answer. What cannot be right is read some times more (archiver.AskAgain).
const readLimit = time.Minute

func (r *reader) checkBytes(ctx context.Context, row projector.BlockRow) error {
	place, err := r.blocks.Placement(row)
	if err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	if row.Length > 0 && (place.Length != row.Length || uint64(len(place.Sums)) != 4*eventlog.Chunks(place.Length)) {
		return fmt.Errorf("%w: a placement of %d bytes with %d checksums for %d bytes", errWrong, place.Length, len(place.Sums)/4, row.Length)
	}
	err = archiver.AskAgain(ctx, wrongAnswer, func() error { return r.readUntilAnswered(ctx, row, place) })
	if errors.Is(err, archiver.ErrNotFound) {
		err = fmt.Errorf("%w: %v is in its list, and absent: %w", archiver.ErrOlderState, archiver.Shipped(place.Ordinal), err)
	}
	return err
}

// wrongAnswer reports whether err is of an answer that does not fit what the
// views say.
func wrongAnswer(err error) bool {
	return errors.Is(err, errWrong) || errors.Is(err, archiver.ErrNotFound)
}

// readUntilAnswered reads a block until the store answers, for readLimit.
func (r *reader) readUntilAnswered(ctx context.Context, row projector.BlockRow, place eventlog.Placement) error {
	deadline := time.Now().Add(readLimit)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := r.readOnce(ctx, row, place)
		if err == nil || wrongAnswer(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		if err := archiver.Pause(ctx, wait); err != nil {
			return err
		}
	}
}

// readOnce reads a payload and compares the checksum of each chunk, of the
// whole, and its SHA-256 with the name where that is one.
func (r *reader) readOnce(ctx context.Context, row projector.BlockRow, place eventlog.Placement) (err error) {
	hash, sum := sha256.New(), uint32(0)
	if row.Length > 0 {
		body, err := r.Archive.OpenRange(ctx, place.Ordinal, place.Offset, place.Length)
		if err != nil {
			return err
		}
		sum, err = r.readChunks(body, hash, place)
		if err := errors.Join(err, body.Close()); err != nil {
			return err
		}
	}
	if sum != row.Checksum {
		return fmt.Errorf("%w: its CRC32C is %08x, its row says %08x", errWrong, sum, row.Checksum)
	}
	if got := hash.Sum(nil); row.Kind != eventlog.KindConfig && string(got) != string(row.Name) {
		return fmt.Errorf("%w: its SHA-256 is %s, not its name", errWrong, hex.EncodeToString(got))
	}
	return nil
}

func (r *reader) readChunks(body io.Reader, hash io.Writer, place eventlog.Placement) (sum uint32, err error) {
	for n := range eventlog.Chunks(place.Length) {
		chunk := r.chunk[:min(eventlog.ChunkSize, place.Length-n*eventlog.ChunkSize)]
		got, err := io.ReadFull(body, chunk)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && got > 0:
			return 0, fmt.Errorf("%w: %v ends within its bytes, at %d", errCut, archiver.Shipped(place.Ordinal), place.Offset+n*eventlog.ChunkSize+uint64(got))
		case err != nil:
			return 0, fmt.Errorf("reading %v: %w", archiver.Shipped(place.Ordinal), err)
		}
		if eventlog.Checksum(chunk) != binary.LittleEndian.Uint32(place.Sums[4*n:]) {
			return 0, fmt.Errorf("%w: bytes %d to %d of %v are not what was stored", errWrong, place.Offset+n*eventlog.ChunkSize, place.Offset+n*eventlog.ChunkSize+uint64(len(chunk)), archiver.Shipped(place.Ordinal))
		}
		sum = eventlog.UpdateChecksum(sum, chunk)
		if _, err := hash.Write(chunk); err != nil {
			return 0, fmt.Errorf("hash a block: %w", err)
		}
	}
	return sum, nil
}

// errCut says that fewer bytes came than were asked for: a transfer that broke
// looks like that, and an object that is too short.
var errCut = errors.New("too few bytes")
