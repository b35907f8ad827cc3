// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/strandline-project/strandline/eventlog"
)

// RunReport is what VerifyIndex or RebuildIndex says of one complete run.
type RunReport struct {
	First, Last uint64    // ordinals
	Index       IndexInfo // that counts now; the zero value when there is none
	Was         RunState  // before
	Why         error     // it was not whole, nil when it was or was missing
	Written     bool      // Index was written
	// Damaged are objects whose own trailer is damaged, and which only the index
	// object describes.
	Damaged []ObjectInfo
	Err     error // why it could not be written; the other runs go on
}

// RunState is how a run's index object was found.
type RunState string

// How a run's index object can be.
const (
	RunWhole   RunState = "whole"
	RunMissing RunState = "missing"
	RunDamaged RunState = "damaged" // or not of these objects
)

// VerifyIndex reads every index object of the complete runs from that of
// fromOrdinal on, and holds each against the objects of its run: 256 reads of a
// trailer for each. It calls each for each run, and ends when that returns an
// error. It writes nothing.
func (a *Archive) VerifyIndex(ctx context.Context, fromOrdinal uint64, each func(RunReport) error) error {
	return a.eachRun(ctx, fromOrdinal, func(run completeRun) error {
		report, err := a.verifyRun(ctx, run)
		if err != nil {
			return err
		}
		return each(report)
	})
}

// ConfirmIndex holds what index objects say of the events after the one and up
// to the other against the objects themselves: a read of a trailer for each. It
// is for events of which nothing else proves that they were read right. An
// index object that says something else is an ErrIndexUnusable; one that
// a reader would not use, and an object of which only its index object tells,
// are passed over.
func (a *Archive) ConfirmIndex(ctx context.Context, after, upto eventlog.Seq) error {
	if after >= upto {
		return nil
	}
	objects, indexes, err := a.seek(ctx, after+1)
	if err != nil {
		return err
	}
	for _, run := range runsOf(objects, indexes, 1) {
		if over, err := a.confirmRun(ctx, run, upto); over || err != nil {
			return err
		}
	}
	return nil
}

// confirmRun holds what the index object of run says of those of its objects
// that begin at or before upto against them. over says that others follow.
func (a *Archive) confirmRun(ctx context.Context, run *runObjects, upto eventlog.Seq) (over bool, err error) {
	x, err := a.openIndex(ctx, run.indexes)
	if err == nil {
		err = x.matches(run.objects)
	}
	if errors.Is(err, ErrIndexUnusable) {
		return false, nil // nobody read it
	}
	if err != nil {
		return false, err
	}
	first := run.objects[0].First - x.entries[0].object.First
	entries := x.entries[first : first+uint64(len(run.objects))]
	if beyond := slices.IndexFunc(entries, func(e indexEntry) bool { return e.trailer.First > upto }); beyond >= 0 {
		entries, over = entries[:beyond], true
	}
	_, err = a.confirm(ctx, entries, func(entry *indexEntry) error { return a.lieOrNotRead(ctx, x, entry, upto) })
	if err != nil {
		return false, fmt.Errorf("%v: %w", x.info, err)
	}
	return over, nil
}

// lieOrNotRead returns nil for an entry that says something else than its
// object when it does not decode: then the object itself was read.
func (a *Archive) lieOrNotRead(ctx context.Context, x *runIndex, entry *indexEntry, upto eventlog.Seq) error {
	stored, err := a.storedFooter(ctx, x, entry)
	if err == nil {
		_, err = openCopy(entry.trailer, stored, true)
	}
	garbage := errors.Is(err, eventlog.ErrObjectDamaged)
	switch {
	case err != nil && !garbage:
		return err
	case garbage && entry.trailer.Last <= upto: // else only what stands behind upto may be garbage
		return nil
	}
	return unusable("of %v it says something else than the object itself", entry.object)
}

// RebuildIndex does what VerifyIndex does and writes the index objects that
// are missing; one that is damaged gets a successor, the next revision,
// because what is in an archive is never written over. It needs no server, and
// one that runs is not disturbed: what is put first counts, and both are equal.
// scratch is a directory for one run's footers at a time.
func (a *Archive) RebuildIndex(ctx context.Context, scratch string, fromOrdinal uint64, each func(RunReport) error) error {
	w := &indexWriter{archive: a, scratch: scratch}
	return a.eachRun(ctx, fromOrdinal, func(run completeRun) error {
		report, err := a.verifyRun(ctx, run)
		if err != nil {
			return err
		}
		if report.Was != RunWhole {
			revision := uint16(0)
			if len(run.indexes) > 0 {
				revision = min(run.indexes[0].Revision+1, maxRevision)
			}
			info, err := w.write(ctx, run.number, revision)
			switch {
			case err == nil:
				report.Index, report.Written = info, true
			case errors.Is(err, eventlog.ErrObjectDamaged):
				report.Err = err
			default:
				return fmt.Errorf("write %v: %w", info, err)
			}
		}
		return each(report)
	})
}

// completeRun is a run all of whose objects are listed.
type completeRun struct {
	number  uint64
	objects []ObjectInfo
	indexes []IndexInfo // the highest revision first
}

// eachRun lists the archive, which must be whole, and calls each with its
// complete runs.
func (a *Archive) eachRun(ctx context.Context, fromOrdinal uint64, each func(completeRun) error) error {
	objects, indexes, err := a.objects(ctx, runStart(fromOrdinal))
	if err != nil {
		return err
	}
	for len(objects) >= RunSize { // they are dense, and begin with a run
		run := completeRun{number: runOf(objects[0].First), objects: objects[:RunSize]}
		for len(indexes) > 0 && indexes[0].Run <= run.number {
			run.indexes, indexes = append(run.indexes, indexes[0]), indexes[1:]
		}
		if err := each(run); err != nil {
			return err
		}
		objects = objects[RunSize:]
	}
	return nil
}

// verifyRun finds the revision that counts: the highest that is whole.
func (a *Archive) verifyRun(ctx context.Context, run completeRun) (RunReport, error) {
	report := RunReport{First: run.objects[0].First, Last: run.objects[RunSize-1].Last, Was: RunMissing}
	if len(run.indexes) == 0 { // the list may lack it
		index, there, err := a.indexByName(ctx, run.number)
		if err != nil {
			return report, err
		}
		if there {
			run.indexes = append(run.indexes, index)
		}
	}
	for _, info := range run.indexes {
		damaged, err := a.checkIndex(ctx, info, run.objects)
		switch {
		case err == nil:
			report.Index, report.Was, report.Damaged = info, RunWhole, damaged
			return report, nil
		case errors.Is(err, ErrIndexUnusable):
			report.Was, report.Why = RunDamaged, errors.Join(report.Why, err)
		default:
			return report, err
		}
	}
	return report, nil
}
