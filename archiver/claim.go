// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/strandline-project/strandline/eventlog"
)

// Claim is the content of `epoch/<epoch>`: who took the epoch. Claims are put
// if absent, are dense, and are never deleted. Whoever made the highest one
// owns the log.
type Claim struct {
	LogID     eventlog.ID `json:"log_id"`
	Epoch     uint32      `json:"epoch"`
	Writer    eventlog.ID `json:"writer"`       // random, for this claim only
	Directory eventlog.ID `json:"directory_id"` // the claimer's state directory
	Host      string      `json:"host"`
	Time      time.Time   `json:"time"`
	Cause     string      `json:"cause"` // "init", "start", "take-over"
	// Archived is the last ordinal that the claimer knew to be archived; nil:
	// it knew none. It bounds the archive's end from below.
	Archived *uint64 `json:"archived_ordinal,omitempty"`
}

// String describes the claim for people.
func (c *Claim) String() string {
	return fmt.Sprintf("epoch %d, claimed by %s at %s (%s)", c.Epoch, c.Host, c.Time.UTC().Format(time.RFC3339), c.Cause)
}

// encode returns the claim as it is put.
func (c *Claim) encode() ([]byte, error) {
	return seal(c)
}

// ErrFenced says that another server owns the log now.
var ErrFenced = errors.New("another server owns this log now")

const maxClaim = 64 << 10

// keptClaims is for how many epochs a directory remembers its claims. Only that
// of the highest epoch counts, so a few are plenty.
const keptClaims = 16

// NewID returns a random identity.
func NewID() eventlog.ID {
	var id eventlog.ID
	rand.Read(id[:]) //nolint:errcheck // never fails: it ends the program instead
	return id
}

// HighestClaim returns the newest claim of the archive, nil when there is
// none. Claims are dense: one that the list lacks is asked for by name, and
// one that is gone is eventlog.ErrDamaged, because without it an epoch could be
// taken twice, or a fenced server not notice. What the newest says of the
// archive's end is remembered: an archive that ends before has a hole.
func (a *Archive) HighestClaim(ctx context.Context) (*Claim, error) {
	epochs, err := a.listClaims(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the claims of %v: %w", a.bucket, err)
	}
	highest := uint32(0)
	for _, epoch := range epochs {
		for highest++; highest < epoch; highest++ {
			if err := a.expectClaim(ctx, highest); err != nil {
				return nil, err
			}
		}
	}
	for { // a list can lag
		there, err := a.claimed(ctx, highest+1)
		if err != nil {
			return nil, err
		}
		if !there {
			break
		}
		highest++
	}
	if highest == 0 {
		return nil, nil
	}
	return a.readClaim(ctx, highest)
}

// expectClaim asks for the claim of an epoch that is known to be claimed, and
// asks again while it is said to be absent.
func (a *Archive) expectClaim(ctx context.Context, epoch uint32) error {
	return AskAgain(ctx, func(err error) bool { return errors.Is(err, eventlog.ErrDamaged) }, func() error {
		there, err := a.claimed(ctx, epoch)
		if err == nil && !there {
			err = fmt.Errorf("%w: the claim %s of %v is gone, a later one is there; restore it from another copy or an earlier version of the object",
				eventlog.ErrDamaged, EpochKey(epoch), a.bucket)
		}
		return err
	})
}

// listClaims returns the claimed epochs that the bucket lists, ascending.
func (a *Archive) listClaims(ctx context.Context) ([]uint32, error) {
	var epochs []uint32
	err := retry(ctx, readLimit, func() error {
		epochs = epochs[:0]
		for info, err := range a.bucket.List(ctx, EpochPrefix, "") {
			if err != nil {
				return err
			}
			epoch, err := ParseEpochKey(info.Key)
			if err != nil {
				a.noteForeign(info.Key)
				continue
			}
			epochs = append(epochs, epoch)
		}
		return nil
	})
	slices.Sort(epochs)
	return slices.Compact(epochs), err
}

// claimed asks for the claim of epoch by name, once: that the next claim is
// absent is the usual answer.
func (a *Archive) claimed(ctx context.Context, epoch uint32) (bool, error) {
	return exists(ctx, a.bucket, EpochKey(epoch))
}

// readClaim reads the claim of an epoch that is known to be claimed.
func (a *Archive) readClaim(ctx context.Context, epoch uint32) (*Claim, error) {
	key := EpochKey(epoch)
	claim := new(Claim)
	err := readSure(ctx, a.bucket, key, maxClaim, func(text []byte) error {
		*claim = Claim{}
		if err := json.Unmarshal(text, claim); err != nil {
			return fmt.Errorf("%w: %w", eventlog.ErrDamaged, err)
		}
		switch {
		case claim.LogID != a.logID:
			return fmt.Errorf("%w: %s", ErrOtherLog, claim.LogID)
		case claim.Epoch != epoch:
			return fmt.Errorf("%w: it says epoch %d", eventlog.ErrDamaged, claim.Epoch)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the claim %s of %v: %w", key, a.bucket, olderIfAbsent(err))
	}
	if claim.Archived != nil {
		a.Expect(*claim.Archived)
	}
	return claim, nil
}

// putter is PutEqual, or one that gives up earlier.
type putter func(ctx context.Context, bucket Bucket, key string, body Body) error

// claim puts c. That c is there already is success; another writer's claim of
// the epoch is ErrFenced and names it.
func (a *Archive) claim(ctx context.Context, c *Claim, put putter) error {
	text, err := c.encode()
	if err != nil {
		return fmt.Errorf("claim epoch %d: %w", c.Epoch, err)
	}
	// The commit point of a start: a crash before it leaves an epoch that
	// nobody has, or that this directory finds to be its own (its writer id was
	// recorded before). After it no older server can get anything archived.
	err = put(ctx, a.bucket, EpochKey(c.Epoch), BytesBody(text))
	if !errors.Is(err, ErrDifferent) {
		return err
	}
	found, err := a.readClaim(ctx, c.Epoch)
	if err != nil {
		return err
	}
	if found.Writer == c.Writer {
		return nil
	}
	return &takenError{found}
}

// takenError says who took the epoch that this server wanted to claim; it is
// ErrFenced.
type takenError struct{ claim *Claim }

func (e *takenError) Error() string {
	return fmt.Sprintf("claim epoch %d: %v: %v", e.claim.Epoch, ErrFenced, e.claim)
}

func (e *takenError) Unwrap() error { return ErrFenced }

// newClaim records a fresh writer id in dir and claims epoch with it. also
// changes what else is recorded with the claim: after a crash the highest claim
// is this directory's own, and nothing else tells.
func newClaim(ctx context.Context, dir *StateDir, archive *Archive, epoch uint32, host, cause string, also func(*State), now time.Time, put putter) (*Claim, error) {
	claim := &Claim{LogID: archive.LogID(), Epoch: epoch, Writer: NewID(), Host: host, Time: now.UTC(), Cause: cause}
	if mark := dir.State().Archived; mark != nil {
		claim.Archived = &mark.Ordinal
	}
	// A crash before this line leaves the directory as it was found, a copy as
	// a copy. After it the directory is this place's, was not ended in order,
	// and knows the claim, which may or may not be put.
	err := dir.updateHere(func(state *State) {
		claim.Directory = state.DirID
		state.Claims = slices.DeleteFunc(state.Claims, func(c OwnClaim) bool { return c.Epoch+keptClaims < epoch })
		state.Claims = append(state.Claims, OwnClaim{Epoch: epoch, Writer: claim.Writer})
		state.Clean = false
		also(state)
	})
	if err != nil {
		return nil, err
	}
	return claim, archive.claim(ctx, claim, put)
}

// stillOurs returns nil when, at a moment after the call began, no epoch after
// the given one was claimed; ErrFenced with the claim's text when one is. Any
// other error means that it is not known.
func (a *Archive) stillOurs(ctx context.Context, epoch uint32) error {
	_, err := a.bucket.Head(ctx, EpochKey(epoch+1))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a claim of epoch %d: %w", epoch+1, err)
	}
	claim, err := a.readClaim(ctx, epoch+1)
	if err != nil {
		return fmt.Errorf("%w: epoch %d is claimed, by whom could not be read: %w", ErrFenced, epoch+1, err)
	}
	return fmt.Errorf("%w: %s", ErrFenced, claim)
}
