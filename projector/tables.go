// SPDX-License-Identifier: Apache-2.0

package projector

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/strandline-project/strandline/eventlog"
)

// tableWriter writes rows, whose keys ascend, into files that the store takes
// in as they are.
type tableWriter struct {
	store  Store
	number *atomic.Uint64 // of the next file, shared by all writers of a store
	files  []string
	file   TableFile
	size   int
	ending errgroup.Group // of the files before
}

const (
	tableFileSize = 32 << 20 // bytes of rows that go into one file, about
	tablesEnding  = 4        // files of a writer that wait for the disk at a time
)

func newTableWriter(store Store, number *atomic.Uint64) *tableWriter {
	w := &tableWriter{store: store, number: number}
	w.ending.SetLimit(tablesEnding)
	return w
}

func (w *tableWriter) set(key, value []byte) error {
	if w.file == nil {
		name := fmt.Sprintf("rows-%06d", w.number.Add(1))
		file, err := w.store.NewTable(name)
		if err != nil {
			return err
		}
		w.file, w.size = file, 0
		w.files = append(w.files, name)
	}
	w.size += len(key) + len(value)
	if err := w.file.Set(key, value); err != nil {
		return err
	}
	if w.size >= tableFileSize {
		w.end()
	}
	return nil
}

// end ends the present file, aside because that waits for the disk.
func (w *tableWriter) end() {
	if w.file != nil {
		w.ending.Go(w.file.Close)
		w.file = nil
	}
}

// finish ends all files. It is called once, whatever went before.
func (w *tableWriter) finish() error {
	w.end()
	return w.ending.Wait()
}

// historyWriter writes history rows in the order of their keys. That is not
// quite the order in which they come: the row of a name and that of a longer
// one which begins with it may change places, because the seq follows the
// name.
type historyWriter struct {
	out     *tableWriter
	waiting []historyRow // ascending
	spare   []historyRow
}

type historyRow struct{ key, row []byte }

// add takes in the row of key that was stored by one event and deleted by
// another. Keys ascend.
func (w *historyWriter) add(key []byte, stored, deleted eventlog.Seq, value, aside []byte) error {
	if err := w.flush(key); err != nil {
		return err
	}
	var row historyRow
	if n := len(w.spare); n > 0 {
		row, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	row.key = append(append(row.key[:0], key[0]|0x80), key[1:]...)
	row.key = binary.BigEndian.AppendUint64(row.key, uint64(stored))
	row.row = appendRow(row.row[:0], deleted, value, aside)
	at, _ := slices.BinarySearchFunc(w.waiting, row, func(a, b historyRow) int { return bytes.Compare(a.key, b.key) })
	w.waiting = slices.Insert(w.waiting, at, row)
	return nil
}

// flush writes the rows that nothing can come before any more, now that the
// names have come to key; nil: to their end.
func (w *historyWriter) flush(key []byte) error {
	n := 0
	for n < len(w.waiting) && (key == nil || compareHistory(w.waiting[n].key, key) < 0) {
		if err := w.out.set(w.waiting[n].key, w.waiting[n].row); err != nil {
			return err
		}
		n++
	}
	w.spare = append(w.spare, w.waiting[:n]...)
	w.waiting = slices.Delete(w.waiting, 0, n)
	return nil
}

// compareHistory compares a history row's key with the one that the live row
// of key has, as a history row.
func compareHistory(history, key []byte) int {
	if order := int(history[0]) - int(key[0]|0x80); order != 0 {
		return order
	}
	return bytes.Compare(history[1:], key[1:])
}
