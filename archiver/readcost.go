// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
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

	Single      int    // objects that are read one by one
	SingleBytes uint64 // of their metadata, as stored

	Metadata uint64 // bytes that footers and trailers of all objects have, as stored
}

// Cost finds out what Follow would read for objects, from the list of index
// objects. It takes them all for whole, and objects without for like a few of
// them that are asked.
func (a *Archive) Cost(ctx context.Context, objects []ObjectInfo) (Cost, error) {
	if len(objects) == 0 {
		return Cost{}, nil
	}
	indexes, err := a.IndexObjects(ctx, objects[0].First)
	if err != nil {
		return Cost{}, err
	}
	var cost Cost
	var single []ObjectInfo
	for _, run := range runsOf(objects, indexes, indexWorth) {
		if len(run.indexes) == 0 {
			single = append(single, run.objects...)
			continue
		}
		cost.Indexed += len(run.objects)
		size := run.indexes[0].Size
		cost.Gets, cost.Bytes = cost.Gets+1, cost.Bytes+uint64(max(size, 0))
		cost.Metadata += uint64(max(size, 0)) * uint64(len(run.objects)) / RunSize
		if size > wholeIndex {
			cost.Gets += uint64(size/pieceLimit) + 1
		}
	}
	cost.Single = len(single)
	cost.SingleBytes, err = a.sampleMetadata(ctx, single)
	cost.Metadata += cost.SingleBytes
	return cost, err
}

// costReads is how many trailers Cost reads at most.
const costReads = 8

// sampleMetadata returns about how many bytes of metadata objects have, from
// the trailers of some of them. A damaged one tells nothing: whoever reads it
// is told.
func (a *Archive) sampleMetadata(ctx context.Context, objects []ObjectInfo) (uint64, error) {
	var total, known uint64
	step := (len(objects) + costReads - 1) / costReads
	for i := step / 2; i < len(objects); i += step {
		trailer, err := a.Trailer(ctx, objects[i])
		if errors.Is(err, eventlog.ErrObjectDamaged) {
			continue
		}
		if err != nil {
			return 0, err
		}
		total, known = total+trailer.FooterSize+eventlog.TrailerSize, known+1
	}
	return total * uint64(len(objects)) / max(known, 1), nil
}
