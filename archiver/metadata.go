// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// tailSize is what one ranged GET reads of an object's end: trailer and footer
// of all but the largest.
const tailSize = 256 << 10

// rereads is how often metadata that does not verify is read again: the
// transfer may have been at fault, not the object.
const rereads = 2

// Metadata reads an object's trailer and footer, never a payload: one ranged
// GET, or two for a footer over 256 KiB. It checks every checksum, that the
// object is of this log, and that it covers the ordinals of its name. A
// damaged object is eventlog.ErrObjectDamaged, another log's ErrOtherLog.
func (a *Archive) Metadata(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, *eventlog.Footer, error) {
	return a.metadata(ctx, object, func(*eventlog.Trailer) error { return nil })
}

// metadata is Metadata; admit is called between trailer and footer, once, and
// may wait until there is memory for the footer.
func (a *Archive) metadata(ctx context.Context, object ObjectInfo, admit func(*eventlog.Trailer) error) (*eventlog.Trailer, *eventlog.Footer, error) {
	admitted := false
	for attempt := 0; ; attempt++ {
		trailer, tail, err := a.readTail(ctx, object, tailSize)
		if err == nil && !admitted {
			if err := admit(trailer); err != nil {
				return nil, nil, err
			}
			admitted = true
		}
		var footer *eventlog.Footer
		if err == nil {
			footer, err = a.readFooter(ctx, object, trailer, tail)
		}
		if err == nil {
			a.learn(trailer)
			return trailer, footer, nil
		}
		if !errors.Is(err, eventlog.ErrObjectDamaged) || attempt == rereads {
			return nil, nil, a.objectError(object, err)
		}
	}
}

// trailer reads an object's trailer alone.
func (a *Archive) trailer(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, error) {
	for attempt := 0; ; attempt++ {
		trailer, _, err := a.readTail(ctx, object, eventlog.TrailerSize)
		if err == nil {
			a.learn(trailer)
			return trailer, nil
		}
		if !errors.Is(err, eventlog.ErrObjectDamaged) || attempt == rereads {
			return nil, a.objectError(object, err)
		}
	}
}

// objectError says about which object err is, and what to do next.
func (a *Archive) objectError(object ObjectInfo, err error) error {
	hint := ""
	switch {
	case errors.Is(err, eventlog.ErrObjectDamaged):
		hint = "; restore this object from another copy or an earlier version of it"
	case errors.Is(err, ErrNotFound):
		hint = "; it was listed and is gone: look for lifecycle rules, restore it from another copy"
	}
	return fmt.Errorf("read the metadata of %v in %v: %w%s", object, a.bucket, err, hint)
}

// readTail reads the last size bytes of an object, or all of a smaller one,
// and the trailer that they end with.
func (a *Archive) readTail(ctx context.Context, object ObjectInfo, size int64) (*eventlog.Trailer, []byte, error) {
	if object.Size < int64(len(eventlog.ObjectMagic))+eventlog.TrailerSize {
		return nil, nil, fmt.Errorf("%w: %d bytes cannot hold a trailer", eventlog.ErrObjectDamaged, object.Size)
	}
	size = min(size, object.Size)
	tail, err := readAll(ctx, a.bucket, object.Key(), object.Size-size, size)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(tail)) != size {
		return nil, nil, fmt.Errorf("%w: it ends %d bytes before its listed size of %d", eventlog.ErrObjectDamaged, size-int64(len(tail)), object.Size)
	}
	trailer, err := eventlog.DecodeTrailer(tail[size-eventlog.TrailerSize:])
	if err != nil {
		return nil, nil, err
	}
	if err := trailer.Check(object.Size); err != nil {
		return nil, nil, err
	}
	return trailer, tail, a.checkIdentity(object, trailer)
}

// checkIdentity checks that the object is the one that its name says.
func (a *Archive) checkIdentity(object ObjectInfo, trailer *eventlog.Trailer) error {
	if trailer.LogID != a.logID {
		return fmt.Errorf("%w: %v, not %v", ErrOtherLog, trailer.LogID, a.logID)
	}
	if trailer.FirstOrdinal != object.First || trailer.LastOrdinal != object.Last {
		return fmt.Errorf("%w: it says that it covers ordinals %d to %d", eventlog.ErrObjectDamaged, trailer.FirstOrdinal, trailer.LastOrdinal)
	}
	return nil
}

// readFooter takes the footer out of tail, and gets the part before it when
// the footer is longer.
func (a *Archive) readFooter(ctx context.Context, object ObjectInfo, trailer *eventlog.Trailer, tail []byte) (*eventlog.Footer, error) {
	stored := tail[:len(tail)-eventlog.TrailerSize]
	if missing := int64(trailer.FooterSize) - int64(len(stored)); missing > 0 {
		head, err := readAll(ctx, a.bucket, object.Key(), int64(trailer.FooterOffset), missing)
		if err != nil {
			return nil, err
		}
		stored = append(head, stored...)
	} else {
		stored = stored[-missing:]
	}
	return eventlog.DecodeFooter(trailer, stored)
}
