// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Everything rests on put-if-absent, and a store that stops keeping it (an
// upgrade, a proxy before it, another endpoint) says nothing of it. So it is
// asked again: before the claim of each start, and once a day by the Shipper.
// That many puts race for one key is asked by Probe only.

// Writable says whether the bucket takes objects, and keeps put-if-absent,
// without leaving or changing one: it puts strandline.json once more, with the
// bytes that are there, and a bucket that does both answers that it exists. That
// it refuses the condition, or takes the bytes and so ignores it, is
// ErrUnsupported. Any other error means that it is not known. Writable asks
// once. (Of a store without put-if-absent it says nothing: SingleWriter looks
// before it puts.)
func (a *Archive) Writable(ctx context.Context) error {
	text, err := a.manifestText(ctx)
	if err == nil {
		err = a.bucket.PutIfAbsent(ctx, ManifestKey, BytesBody(text))
		if err == nil {
			err = fmt.Errorf("%w: it took a put of %s, which is there: it ignores the condition of a put, If-None-Match", ErrUnsupported, ManifestKey)
		}
	}
	if errors.Is(err, ErrExists) {
		return nil
	}
	return fmt.Errorf("ask whether %v keeps put-if-absent: %w", a.bucket, err)
}

// manifestText is strandline.json as it is there, for sure: a store that ignores
// the condition of a put would be given a wrong byte for good.
func (a *Archive) manifestText(ctx context.Context) ([]byte, error) {
	var sure []byte
	err := readSure(ctx, a.bucket, ManifestKey, maxManifest, func(text []byte) error {
		var found manifest
		if err := json.Unmarshal(text, &found); err != nil {
			return fmt.Errorf("%w: %w", eventlog.ErrDamaged, err)
		}
		if found.LogID != a.logID {
			return fmt.Errorf("%w: %s", ErrOtherLog, found.LogID)
		}
		sure = text
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestKey, olderIfAbsent(err))
	}
	return sure, nil
}

// useAnother is what an operator can do about ErrUnsupported.
const useAnother = "use a store that keeps it, or promise with --single-writer that no second server ever uses this archive"

// checkStore refuses to claim anything in a store that does not keep
// put-if-absent. One that denies the question is taken at what `init` proved.
func (s *Start) checkStore(ctx context.Context) error {
	err := retry(ctx, readLimit, func() error {
		err := s.Archive.Writable(ctx)
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrUnsupported) {
			return permanent(err)
		}
		if err != nil {
			s.Logger.Warn("whether the archive keeps put-if-absent is not known yet; trying again", "limit", readLimit, "error", err)
		}
		return err
	})
	switch {
	case errors.Is(err, ErrUnsupported):
		return fmt.Errorf("%w; %s", err, useAnother)
	case errors.Is(err, ErrDenied):
		s.Logger.Warn("whether the archive keeps put-if-absent could not be found out", "error", err)
		return nil
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("%w: tried for %v: %w", ErrNotTaken, readLimit, err)
	}
	return err
}

// How often a Shipper asks whether the store keeps put-if-absent: while it does,
// and while it does not or that is not known.
const (
	checkEvery = 24 * time.Hour
	checkAgain = time.Minute
)

// checkStore asks, when that is due, whether the store still keeps
// put-if-absent. One that does not is told in Archive.Unsafe.
func (s *Shipper) checkStore(ctx context.Context) {
	if s.checkAt.IsZero() { // the start has asked
		s.checkAt = time.Now().Add(s.CheckEvery)
	}
	if time.Now().Before(s.checkAt) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, readLimit)
	err := s.Archive.Writable(limited)
	cancel()
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		if s.Archive.Unsafe() != nil {
			s.Logger.Info("the store keeps put-if-absent again: shipping goes on")
		}
		s.Archive.setUnsafe(nil)
	case errors.Is(err, ErrUnsupported):
		s.stopPutting(err)
		return
	case errors.Is(err, ErrDenied):
		s.Logger.Warn("whether the archive keeps put-if-absent could not be found out", "error", err)
	default: // an outage, in which nothing is shipped either
		s.checkAt = time.Now().Add(checkAgain)
		s.note(err)
		return
	}
	s.checkAt = time.Now().Add(s.CheckEvery)
}

// stopPutting is what a Shipper does about a store that does not keep
// put-if-absent (any more): a late put of a server that is fenced could replace
// what is archived. Nothing is put before it keeps it again.
func (s *Shipper) stopPutting(err error) {
	s.checkAt = time.Now().Add(checkAgain)
	s.Archive.setUnsafe(fmt.Errorf("nothing is put into the archive: %w; %s", err, useAnother))
	s.note(err)
}

// Unsafe returns why nothing may be put into the archive now: its store does
// not keep put-if-absent any more. nil: nothing is known against it.
func (a *Archive) Unsafe() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unsafe
}

func (a *Archive) setUnsafe(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unsafe = err
}

// errChanged says that an object is not what this log put under its key. What
// is in an archive never changes, so somebody has put another in its place.
var errChanged = errors.New("the object is not the one that was archived: it was replaced. Restore its earlier version; the local copy stays")

// alarm is errChanged for an object, and tells of it, once, loudly.
func (a *Archive) alarm(key string) error {
	a.mu.Lock()
	_, known := a.changed[key]
	if !known && len(a.changed) < maxWarned {
		a.changed[key] = struct{}{}
	}
	a.mu.Unlock()
	err := fmt.Errorf("%s of %v: %w", key, a.bucket, errChanged)
	if !known {
		a.log().Error("somebody has written over an archived object", "key", key, "error", err)
	}
	return err
}

// Changed returns how many objects were found that are not what was archived
// under their keys.
func (a *Archive) Changed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.changed)
}
