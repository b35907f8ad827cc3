// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"sync"

	"github.com/strandline-project/strandline/eventlog"
)

// tailGuess says how much of an object's end is to be read for its footer
// before its size is known: what the largest of those just read would have
// taken. Too little costs another request, too much some bytes for nothing.
type tailGuess struct {
	mu     sync.Mutex
	recent [16]int64 // owned by mu
	n      int       // owned by mu; notes so far
}

func (g *tailGuess) next() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n == 0 {
		return tailSize
	}
	size := int64(0)
	for _, footer := range g.recent {
		size = max(size, footer)
	}
	return min(size+eventlog.TrailerSize, maxTail)
}

func (g *tailGuess) note(trailer *eventlog.Trailer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.recent[g.n%len(g.recent)] = int64(trailer.FooterSize)
	g.n++
}

// learn notes the last objects of an index object.
func (g *tailGuess) learn(x *runIndex) {
	for _, entry := range x.entries[max(0, len(x.entries)-len(g.recent)):] {
		g.note(entry.trailer)
	}
}

// Cost is about what reading the metadata of an archive takes.
type Cost struct {
	Gets    uint64 // reads of index objects
	Bytes   uint64 // of them
	Indexed int    // objects whose metadata they have
	Single  int    // objects that are read one by one
}

// Cost finds out what Follow would read for objects, from the list of index
// objects. It takes them all for whole.
func (a *Archive) Cost(ctx context.Context, objects []ObjectInfo) (Cost, error) {
	if len(objects) == 0 {
		return Cost{}, nil
	}
	indexes, err := a.IndexObjects(ctx, objects[0].First)
	if err != nil {
		return Cost{}, err
	}
	var cost Cost
	for _, run := range runsOf(objects, indexes) {
		if len(run.indexes) == 0 {
			cost.Single += len(run.objects)
			continue
		}
		cost.Indexed += len(run.objects)
		size := run.indexes[0].Size
		cost.Gets, cost.Bytes = cost.Gets+1, cost.Bytes+uint64(max(size, 0))
		if size > wholeIndex {
			cost.Gets += uint64(size/pieceSize) + 1
		}
	}
	return cost, nil
}
