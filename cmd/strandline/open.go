// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/archiver/s3"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// openBucket opens the archive that spec names; create makes the directory of
// a directory archive.
func openBucket(spec string, create bool) (archiver.Bucket, error) {
	switch {
	case strings.HasPrefix(spec, dir.Scheme) && create:
		return dir.Create(spec)
	case strings.HasPrefix(spec, dir.Scheme):
		return dir.Open(spec)
	case strings.HasPrefix(spec, s3.Scheme):
		bucket, err := s3.Open(spec)
		if err != nil { // it has not asked the store anything yet
			return nil, withCode(exitUsage, err)
		}
		return bucket, nil
	}
	return nil, usagef("--archive %s: write dir:PATH or s3://BUCKET/PREFIX?endpoint=http://HOST:PORT", spec)
}

// bucketWarnings is what an operator should know of the bucket before trusting
// it: it shares a disk with the state directory, has rules that delete
// objects, or a clock far from ours.
func bucketWarnings(ctx context.Context, bucket archiver.Bucket, state string) []string {
	switch b := bucket.(type) {
	case *dir.Bucket:
		shares, err := b.SharesDisk(state)
		if err != nil {
			return []string{fmt.Sprintf("whether %v and %s share a disk could not be found out: %v", b, state, err)}
		}
		if shares {
			return []string{fmt.Sprintf("the archive %v lies on the same disk as the state directory %s: the loss of that disk takes both. Put one of them on another disk or machine", b, state)}
		}
	case interface {
		Warnings(context.Context) []string
	}:
		return b.Warnings(ctx)
	}
	return nil
}

// warnAbout logs the warnings of a bucket, loudly.
func warnAbout(ctx context.Context, bucket archiver.Bucket, state string) []string {
	warnings := bucketWarnings(ctx, bucket, state)
	for _, text := range warnings {
		slog.Warn(text)
	}
	return warnings
}

// hostname is who claims an epoch, for people.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// classify gives an error of the packages below the exit code that tells it
// apart; one that has a code keeps it.
func classify(err error) int {
	var violation *projector.Violation
	var network net.Error
	switch {
	case errors.Is(err, archiver.ErrFenced):
		return exitFenced
	case errors.Is(err, archiver.ErrOlderState): // before what it may be about: loss is not proven by it
		return exitUnavailable
	case errors.Is(err, archiver.ErrInUse):
		return exitInUse
	case errors.Is(err, archiver.ErrTakeOver), errors.Is(err, archiver.ErrUnsupported):
		return exitRefused
	case errors.Is(err, archiver.ErrHole), errors.Is(err, eventlog.ErrDamaged), errors.Is(err, eventlog.ErrObjectDamaged), errors.As(err, &violation):
		return exitDamage
	case errors.Is(err, archiver.ErrOtherLog), errors.Is(err, archiver.ErrFormat), errors.Is(err, eventlog.ErrUnknownType), errors.Is(err, archiver.ErrNoArchive), errors.Is(err, archiver.ErrNoState), errors.Is(err, archiver.ErrNotEmpty):
		return exitUsage
	case errors.As(err, &network) && !isErrno(network), errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	}
	return exitError
}

// isErrno says that err is a bare error number, which passes for a net.Error
// and may as well be of a file.
func isErrno(err error) bool {
	var number syscall.Errno
	return errors.As(err, &number) && err == error(number) //nolint:errorlint // bare, not somewhere in the chain
}

// exclusive is the bucket as the server uses it: with a question before every
// put, and none in it, when the operator has promised a single writer.
func exclusive(bucket archiver.Bucket, singleWriter bool) archiver.Bucket {
	if !singleWriter {
		return bucket
	}
	if b, ok := bucket.(*s3.Bucket); ok {
		bucket = b.Unconditional()
	}
	return archiver.SingleWriter(bucket)
}
