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

// Metadata reads an object's trailer and footer, never a payload: one ranged
// GET, or two for a footer over 256 KiB. It checks every checksum, that the
// object is of this log, and that it covers the ordinals of its name. Damaged
// metadata is taken from the run's index object, where there is one that fits,
// with a warning; otherwise it is eventlog.ErrObjectDamaged. Another log's
// object is ErrOtherLog.
func (a *Archive) Metadata(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, *eventlog.Footer, error) {
	trailer, c, err := a.metadata(ctx, object, tailSize, true, func(*eventlog.Trailer) error { return nil })
	return trailer, c.footer, err
}

// contents is what an object's footer says.
type contents struct {
	packed *eventlog.Packed
	footer *eventlog.Footer // nil when only packed was asked for
}

// openContents decodes a footer as it is stored: all of it, or as far as a
// Packed is.
func openContents(t *eventlog.Trailer, stored []byte, whole bool) (c contents, err error) {
	return contentsOf(t, stored, whole, false)
}

// openCopy is openContents of what an index object has.
func openCopy(t *eventlog.Trailer, stored []byte, whole bool) (c contents, err error) {
	return contentsOf(t, stored, whole, true)
}

func contentsOf(t *eventlog.Trailer, stored []byte, whole, isCopy bool) (c contents, err error) {
	if c.packed, err = eventlog.OpenFooter(t, stored); err != nil {
		return c, err
	}
	c.packed.Copy = isCopy
	if whole {
		c.footer, err = c.packed.Decode()
	}
	return c, err
}

// metadata is Metadata; it reads tail bytes first, and admit is called between
// trailer and footer, once, and may wait until there is memory for the footer.
func (a *Archive) metadata(ctx context.Context, object ObjectInfo, tail int64, whole bool, admit func(*eventlog.Trailer) error) (*eventlog.Trailer, contents, error) {
	admitted := false
	once := func(trailer *eventlog.Trailer) error {
		if admitted {
			return nil
		}
		admitted = true
		return admit(trailer)
	}
	trailer, c, err := a.ownMetadata(ctx, object, tail, whole, once)
	if err == nil || !errors.Is(err, eventlog.ErrObjectDamaged) {
		return trailer, c, err
	}
	trailer, stored, copyErr := a.copyOf(ctx, object)
	if copyErr == nil {
		copyErr = once(trailer)
	}
	if copyErr == nil {
		c, copyErr = openCopy(trailer, stored, whole)
	}
	if copyErr != nil {
		return nil, contents{}, withoutCopy(err, copyErr)
	}
	a.warnOfObject(object, err)
	a.learn(trailer)
	return trailer, c, nil
}

// withoutCopy is err, and why there is no copy of what is damaged.
func withoutCopy(err, copyErr error) error {
	if errors.Is(copyErr, errNoIndex) {
		return err
	}
	return fmt.Errorf("%w; its run's index object does not help: %w", err, copyErr)
}

func (a *Archive) warnOfObject(object ObjectInfo, err error) {
	a.warnOnce(object.Key(), "an object's metadata is damaged; the copy in its run's index object is used. Restore the object while that copy is there",
		"key", object.Key(), "error", err)
}

// ownMetadata reads trailer and footer from the object itself and nowhere else.
func (a *Archive) ownMetadata(ctx context.Context, object ObjectInfo, tail int64, whole bool, admit func(*eventlog.Trailer) error) (*eventlog.Trailer, contents, error) {
	var trailer *eventlog.Trailer
	var c contents
	err := AskAgain(ctx, contradicts, func() (err error) {
		var stored []byte
		if trailer, stored, err = a.ownStored(ctx, object, tail, admit); err == nil {
			c, err = openContents(trailer, stored, whole)
		}
		return err
	})
	var refused *notAdmitted
	if errors.As(err, &refused) {
		return nil, contents{}, refused.err
	}
	if err != nil {
		return nil, contents{}, a.objectError(object, err)
	}
	a.learn(trailer)
	return trailer, c, nil
}

// notAdmitted is what admit said; it is no fault of the object.
type notAdmitted struct{ err error }

func (e *notAdmitted) Error() string { return e.err.Error() }

// ownStored reads once the object's trailer, and its footer as stored.
func (a *Archive) ownStored(ctx context.Context, object ObjectInfo, size int64, admit func(*eventlog.Trailer) error) (*eventlog.Trailer, []byte, error) {
	trailer, tail, err := a.readTail(ctx, object, size)
	if err != nil {
		return nil, nil, err
	}
	if err := admit(trailer); err != nil {
		return nil, nil, &notAdmitted{err}
	}
	stored, err := a.readFooter(ctx, object, trailer, tail)
	return trailer, stored, err
}

// Trailer reads an object's trailer alone: 144 bytes. A damaged one is taken
// from the run's index object as Metadata does.
func (a *Archive) Trailer(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, error) {
	trailer, err := a.ownTrailer(ctx, object)
	if err == nil || !errors.Is(err, eventlog.ErrObjectDamaged) {
		return trailer, err
	}
	trailer, _, copyErr := a.copyOf(ctx, object)
	if copyErr != nil {
		return nil, withoutCopy(err, copyErr)
	}
	a.warnOfObject(object, err)
	a.learn(trailer)
	return trailer, nil
}

// ownTrailer reads the trailer from the object itself and nowhere else.
func (a *Archive) ownTrailer(ctx context.Context, object ObjectInfo) (*eventlog.Trailer, error) {
	var trailer *eventlog.Trailer
	err := AskAgain(ctx, contradicts, func() (err error) {
		trailer, _, err = a.readTail(ctx, object, eventlog.TrailerSize)
		return err
	})
	if err != nil {
		return nil, a.objectError(object, err)
	}
	a.learn(trailer)
	return trailer, nil
}

// objectError says about which object err is, and what to do next.
func (a *Archive) objectError(object ObjectInfo, err error) error {
	hint := ""
	switch {
	case errors.Is(err, eventlog.ErrObjectDamaged):
		hint = "; restore this object from another copy or an earlier version of it"
	case errors.Is(err, ErrNotFound):
		hint = "; try again, and if it stays away, look for lifecycle rules, restore it from another copy"
	}
	return fmt.Errorf("read the metadata of %v in %v: %w%s", object, a.bucket, olderIfAbsent(err), hint)
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

// readFooter takes the stored footer out of tail, and gets the part before it
// when the footer is longer.
func (a *Archive) readFooter(ctx context.Context, object ObjectInfo, trailer *eventlog.Trailer, tail []byte) ([]byte, error) {
	stored := tail[:len(tail)-eventlog.TrailerSize]
	missing := int64(trailer.FooterSize) - int64(len(stored))
	if missing <= 0 {
		return stored[-missing:], nil
	}
	head, err := readAll(ctx, a.bucket, object.Key(), int64(trailer.FooterOffset), missing)
	return append(head, stored...), err
}
