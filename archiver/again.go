// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/strandline-project/strandline/eventlog"
)

// This file is what happens to an answer of the store that cannot be right: it
// contradicts what was listed, acknowledged or asked for, or it does not parse.
// One such answer decides nothing. The question is asked again some times, with
// pauses.

// ErrOlderState says that the store kept answering with less than it had shown
// before: an object that was listed was absent, or a list lacked an object that
// was there by name. Nothing is known of the archive then; a retry is safe.
var ErrOlderState = errors.New("the store answered with an older state")

// A question is asked again so many times, after so long a pause and then
// after twice the pause before.
const (
	asksAgain  = 3
	firstPause = 200 * time.Millisecond
)

// AskAgain calls op, and calls it again some times with pauses while
// contradicts says of its error that it cannot be right. It returns the last
// error of op.
func AskAgain(ctx context.Context, contradicts func(error) bool, op func() error) error {
	var last error
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.Multiplier, pauses.RandomizationFactor = firstPause, 2, 0
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if last = op(); last == nil || contradicts(last) {
			return struct{}{}, last
		}
		return struct{}{}, permanent(last)
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(asksAgain+1), backoff.WithMaxElapsedTime(0))
	if last != nil && err != nil && ctx.Err() != nil && !errors.Is(last, context.Cause(ctx)) {
		return fmt.Errorf("%w; the last answer: %w", context.Cause(ctx), last)
	}
	return last
}

// contradicts says of the error of a read that the answer cannot be right: the
// object is known to be there, is ours, and is whole.
func contradicts(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrOtherLog) || errors.Is(err, ErrIndexUnusable) ||
		errors.Is(err, eventlog.ErrDamaged) || errors.Is(err, eventlog.ErrObjectDamaged)
}

// olderIfAbsent is what the absence of an object that is known to be there
// means after it was asked for again.
func olderIfAbsent(err error) error {
	if errors.Is(err, ErrNotFound) && !errors.Is(err, ErrOlderState) {
		return fmt.Errorf("%w: it is known to be there: %w", ErrOlderState, err)
	}
	return err
}

// readSeen is readAll of an object that is known to be there.
func readSeen(ctx context.Context, bucket Bucket, key string, offset, length int64) (data []byte, err error) {
	err = AskAgain(ctx, contradicts, func() error {
		data, err = readAll(ctx, bucket, key, offset, length)
		return err
	})
	return data, olderIfAbsent(err)
}

// exists asks for key by name, once: for what may well be absent.
func exists(ctx context.Context, bucket Bucket, key string) (bool, error) {
	err := retry(ctx, readLimit, func() error {
		_, err := bucket.Head(ctx, key)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask %v for %s: %w", bucket, key, err)
	}
	return true, nil
}
