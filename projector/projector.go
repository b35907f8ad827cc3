// SPDX-License-Identifier: Apache-2.0

// Package projector says what the events mean: it turns them into views, the
// machine view (accounts, machines, locks, totals) and the block view (every
// block of every machine, deleted ones as history).
//
// A view is never the truth. It can be thrown away and projected again from
// the first event, and whatever it then holds must be what it held before.
// So that this stays so,
//
//   - a Projector is a pure function from an event to row changes, each with
//     what it expects of the rows that are there (a rule);
//   - one function, project, brings a view forward, whether the events come
//     live, at start-up, in a rebuild or in a recovery;
//   - rows, position and digest move in one write, so a crash rewinds a view
//     but never tears it;
//   - a broken rule is a Violation: it stops that view, loudly, and every
//     waiter with it; nothing is skipped in silence;
//   - the digest of every view, an order-independent sum over its rows, is
//     recorded in the log now and then, and checked whenever a view passes
//     such a record.
package projector

import (
	"context"
	"iter"

	"github.com/strandline-project/strandline/eventlog"
)

// A Projector turns events into a view. It is pure: it never reads the view,
// the clock or anything else, so the same events make the same rows whether
// they come live, in a rebuild or in a recovery. What it must rely on it
// states as expectations, which the sink checks: by look-up when live, in the
// merge when bulk. It is called by several goroutines at the same time.
type Projector interface {
	// Name of the view, also of its directory: "machine", "block".
	Name() string
	// Version of the rows' meaning and encoding. A stored view of another
	// version is thrown away and reprojected.
	Version() uint32
	// Tables lists every table of the view.
	Tables() []*Table
	// Project appends to changes what entry does to the view. An event type
	// that the projector does not understand is an error; it stops the view.
	Project(entry *eventlog.Entry, changes *Changes) error
}

// Source is where events come from: the running log, the archive, or both
// behind one call. eventlog.History has the same shape.
type Source interface {
	// Follow yields every event from seq from on, in order, in batches that
	// are never empty, up to the end it knew when it was called, or, at the
	// source's choice, on until ctx ends. Batches that were yielded are not
	// changed any more, unless the source says so: several views may read one
	// at the same time, later.
	Follow(ctx context.Context, from eventlog.Seq) iter.Seq2[eventlog.Batch, error]
}
