// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// plainBatch is how many rows PlainLoad commits at once.
const plainBatch = 8192

// PlainLoad writes the rows of the block view that log makes into a fresh
// store in dir, in the order of the events, in batches and without a look at
// what is there: what one would write first, and what a recovery is compared
// with. It checks nothing and sums nothing, and waits for no disk before its
// end. The events are read ahead meanwhile. The store is set up as a server's.
func PlainLoad(ctx context.Context, engine projector.Engine, dir string, log eventlog.History) (events uint64, took time.Duration, err error) {
	began := time.Now()
	store, err := engine.Open(dir, projector.Live)
	if err != nil {
		return 0, 0, err
	}
	load := plainLoad{batch: store.NewBatch()}
	for batch, followErr := range log.Follow(ctx, eventlog.FirstSeq) {
		if err = followErr; err == nil {
			err = load.take(batch.Entries)
		}
		if err != nil {
			break
		}
		events += uint64(len(batch.Entries))
	}
	err = errors.Join(err, load.commit(), load.batch.Close(), store.Flush(), store.Close())
	return events, time.Since(began), err
}

type plainLoad struct {
	batch      projector.WriteBatch
	rows       int // in batch
	key, value []byte
}

func (l *plainLoad) take(entries []eventlog.Entry) error {
	for i := range entries {
		e := &entries[i].Event
		var err error
		switch e.Type {
		case eventlog.BlockStored:
			err = l.set(&entries[i], 1, 0)
		case eventlog.BlockDeleted:
			l.makeKey(e, 1)
			err = errors.Join(l.batch.Delete(l.key), l.set(&entries[i], 0x81, e.Undoes))
		}
		if l.rows++; err == nil && l.rows == plainBatch {
			err = l.commit()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *plainLoad) makeKey(e *eventlog.Event, table byte) {
	l.key = binary.BigEndian.AppendUint64(append(l.key[:0], table), uint64(e.Machine))
	l.key = append(append(l.key, byte(e.Kind)), e.Block...)
}

// set writes a row as large as the block view's.
func (l *plainLoad) set(entry *eventlog.Entry, table byte, stored eventlog.Seq) error {
	e := &entry.Event
	l.makeKey(e, table)
	if stored != 0 {
		l.key = binary.BigEndian.AppendUint64(l.key, uint64(stored))
	}
	l.value = append(binary.BigEndian.AppendUint64(l.value[:0], uint64(e.Seq)), 6)
	l.value = binary.LittleEndian.AppendUint32(binary.AppendUvarint(l.value, e.Length), e.Checksum)
	l.value = binary.AppendUvarint(l.value, uint64(e.Reuses))
	l.value = binary.AppendUvarint(binary.AppendUvarint(l.value, entry.Placement.Ordinal), entry.Placement.Offset)
	return l.batch.Set(l.key, l.value)
}

func (l *plainLoad) commit() error {
	l.rows = 0
	return l.batch.Commit()
}
