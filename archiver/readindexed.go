// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"io"

	"github.com/strandline-project/strandline/eventlog"
)

// This file is how the footers of a run come out of its index object: a small
// one was read whole, of a large one they are read in pieces.

// dispatchIndex reads the objects' footers out of an index object that matches
// them.
func (r *ahead) dispatchIndex(ctx context.Context, x *runIndex, objects []ObjectInfo) bool {
	metas := make([]*metadata, len(objects))
	for i, object := range objects {
		entry, err := x.entry(object)
		if err != nil { // open has looked
			return r.dispatchObjects(ctx, objects[i:])
		}
		m := r.add(object)
		m.index, m.offset, m.trailer = &x.info, entry.offset, entry.trailer
		metas[i] = m
		if x.body != nil {
			stored := x.footer(entry)
			if !r.push(ctx, m) {
				return false
			}
			r.running.Go(func() { r.decode(ctx, m, stored) })
		}
	}
	if x.body != nil {
		return true
	}
	for len(metas) > 0 {
		n, size := r.firstPiece(metas)
		if !r.dispatchPiece(ctx, metas[:n], size) {
			return false
		}
		metas = metas[n:]
	}
	return true
}

// firstPiece returns how many footers one request asks for, and their bytes.
func (r *ahead) firstPiece(metas []*metadata) (n int, size int64) {
	for _, m := range metas {
		footer := int64(m.trailer.FooterSize)
		if n > 0 && size+footer > r.piece {
			break
		}
		n, size = n+1, size+footer
	}
	return n, size
}

// dispatchPiece reads some footers that stand next to each other, when there
// is memory for all of them.
func (r *ahead) dispatchPiece(ctx context.Context, piece []*metadata, size int64) bool {
	if r.stored.Acquire(ctx, r.stored.AtMost(size)) != nil {
		return false // ctx has ended
	}
	for _, m := range piece {
		m.stored = r.stored.AtMost(int64(m.trailer.FooterSize)) // a larger one is alone in its piece
	}
	r.running.Go(func() { r.readPiece(ctx, piece) })
	for _, m := range piece {
		if !r.push(ctx, m) {
			return false
		}
	}
	return true
}

// readPiece reads a piece with one request, and goes on where a transfer
// broke. Each footer is decoded as soon as it is here. What cannot be read is
// read from the objects.
func (r *ahead) readPiece(ctx context.Context, piece []*metadata) {
	for len(piece) > 0 {
		before := len(piece)
		err := retry(ctx, readLimit, func() error { return r.transfer(ctx, &piece) })
		if err == nil || len(piece) < before && ctx.Err() == nil {
			continue
		}
		if ctx.Err() == nil {
			r.archive.warnOfIndex(*piece[0].index, err)
		}
		r.readInstead(ctx, piece)
		return
	}
}

// readInstead reads the objects of a piece by themselves. The places that it
// gives are its own: the next object of an earlier piece never waits for them.
func (r *ahead) readInstead(ctx context.Context, piece []*metadata) {
	places := make(chan struct{}, pieceReads)
	for _, m := range piece {
		r.stored.Release(m.stored)
		m.index = nil
		places <- struct{}{}
		r.running.Go(func() {
			r.readObject(ctx, m)
			<-places
		})
	}
}

// transfer takes from piece what one request brings.
func (r *ahead) transfer(ctx context.Context, piece *[]*metadata) (err error) {
	first, last := (*piece)[0], (*piece)[len(*piece)-1]
	length := last.offset + int64(last.trailer.FooterSize) - first.offset
	body, err := r.archive.bucket.GetRange(ctx, first.index.Key(), first.offset, length)
	if err != nil {
		return err
	}
	for len(*piece) > 0 && err == nil {
		m := (*piece)[0]
		stored := make([]byte, m.trailer.FooterSize)
		if _, err = io.ReadFull(body, stored); err == nil {
			*piece = (*piece)[1:]
			r.running.Go(func() { r.decode(ctx, m, stored) })
		}
	}
	if err != nil {
		return errors.Join(err, body.Close())
	}
	if err := body.Close(); err != nil {
		return permanent(err) // everything is here
	}
	return nil
}

// decode fills m from its footer in an index object. One that does not decode
// is read from the object itself.
func (r *ahead) decode(ctx context.Context, m *metadata, stored []byte) {
	defer close(m.done)
	m.err = r.admit(ctx, m, r.decodedSize(m.trailer))
	close(m.admitted)
	if m.err == nil {
		m.contents, m.err = openCopy(m.trailer, stored, r.whole)
	}
	if m.stored > 0 {
		r.stored.Release(m.stored)
	}
	switch {
	case ctx.Err() != nil:
	case m.err == nil:
		r.archive.learn(m.trailer)
	default:
		r.archive.warnOfIndex(*m.index, m.err)
		m.index = nil
		// Its weight stays the one that the index object's lie had.
		m.trailer, m.contents, m.err = r.archive.metadata(ctx, m.object, tailSize, r.whole, func(*eventlog.Trailer) error { return nil })
	}
}
