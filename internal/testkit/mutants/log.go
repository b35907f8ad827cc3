// SPDX-License-Identifier: Apache-2.0

package main

// ofTheLog are bugs in the running log: what is committed, archived, dropped, admitted.
var ofTheLog = []mutant{
	{
		name: "answer-before-the-frames-are-synced", why: `who heard "committed" may have lost it to a power cut`,
		file: "eventlog/committer.go",
		cut: `	c.addFrames(p, entries)
	if err := p.gen.sync(); err != nil {
		return err
	}`,
		put: `	c.addFrames(p, entries)
	for _, pending := range p.accepted {
		pending.seq, pending.err = pending.event.Seq, nil
		close(pending.done)
		pending.done = make(chan struct{})
	}
	if err := p.gen.sync(); err != nil {
		return err
	}`,
		in: "eventlog", tests: "TestAFailingFilePoisonsTheLogAndLosesNothing",
	},
	{
		name: "failed-sync-of-frames-taken-for-done", why: "what the disk refused is acknowledged",
		file: "eventlog/committer.go",
		cut: `	if err := p.gen.sync(); err != nil {
		return err
	}
	// COMMITTED.`,
		put: `	if err := p.gen.sync(); err != nil && p.apart == 1 {
		return err
	}
	// COMMITTED.`,
		in: "eventlog", tests: "TestAFailingFilePoisonsTheLogAndLosesNothing",
	},
	{
		name: "payload-not-synced-before-its-frame", why: "a committed frame names bytes that a power cut takes",
		file: "eventlog/part.go",
		cut: `	if p.apart == 0 {
		return nil
	}
	if err`,
		put: `	if p.apart != 1 {
		return nil
	}
	if err`,
		in: "eventlog", tests: "TestNoFrameIsWrittenBeforeItsPayloadIsSynced",
	},
	{
		name: "commit-after-poison", why: "after a failed write the log goes on as if it knew what the disk holds",
		file: "eventlog/committer.go",
		cut:  `	case errors.Is(c.l.Err(), ErrPoisoned):`,
		put:  `	case errors.Is(c.l.Err(), ErrPoisoned) && p == nil:`,
		in:   "eventlog", tests: "TestAFailedSyncOfAFencedLogEndsAllWriting",
	},
	{
		name: "seal-says-nothing", why: "rot in the last batch is taken for a torn tail, and cut",
		file: "eventlog/committer.go",
		cut:  "flags: frameSeal, seq: c.last, durable: c.last",
		put:  "flags: frameSeal, seq: c.last",
		in:   "eventlog", tests: "TestAnIdleLogIsSealedOnceAndWritesNothingMore TestEveryFlippedBitOfASealedLogIsRefusedOrHarmless",
	},
	{
		name: "refused-event-uses-a-seq", why: "the log has a gap that no start accepts",
		file: "eventlog/writer.go",
		cut: `		taken++
		if err`,
		put: `		taken++
		w.last = pending.event.Seq
		if err`,
		in: "eventlog", tests: "TestTheRulesSeeEachEventInOrderAndWhatTheyRefuseLeavesNoTrace",
	},
	{
		name: "seq-goes-on-in-the-old-epoch", why: "a new server issues seqs of the old one again",
		file: "eventlog/writer.go",
		cut:  "case w.last.Epoch() != epoch:",
		put:  "case w.last.Epoch() != epoch && w.last == 0:",
		in:   "eventlog", tests: "TestFollowGivesEveryEventFromAnySeqOnWithoutSeams",
	},
	{
		name: "rules-not-asked", why: "events that no view can apply are committed",
		file: "eventlog/writer.go",
		cut:  `	if w.l.opts.Rules == nil {`,
		put:  `	if w.l.opts.Rules == nil || p.seq == 0 {`,
		in:   "eventlog", tests: "TestTheRulesSeeEachEventInOrderAndWhatTheyRefuseLeavesNoTrace",
	},
	{
		name: "wait-archived-off-by-one", why: `an answer says "archived" one event too early`,
		file: "eventlog/log.go",
		cut:  "l.archived >= seq })",
		put:  "l.archived+1 >= seq })",
		in:   "eventlog", tests: "TestAnAnswerComesWithTheGenerationOfItsEvent",
	},
	{
		name: "wait-archived-for-the-next", why: "an answer waits for an event that may never come",
		file: "eventlog/log.go",
		cut:  "l.archived >= seq })",
		put:  "l.archived > seq })",
		in:   "eventlog", tests: "TestAnAnswerComesWithTheGenerationOfItsEvent",
	},
	{
		name: "drop-of-what-is-not-archived", why: "the only copy of events is deleted",
		file: "eventlog/local.go",
		cut:  " || g.lastSeq() > l.archived {",
		put:  " {",
		in:   "eventlog", tests: "TestTheArchivedWatermarkMovesOnceForEachGenerationAndNotWhenFenced",
	},
	{
		name: "drop-of-any-generation", why: "the WAL gets a gap",
		file: "eventlog/local.go",
		cut:  "l.gens[0] != g || ",
		put:  "",
		in:   "eventlog", tests: "TestOnlyTheOldestGenerationIsDropped",
	},
	{
		name: "jump-over-missing-events", why: "a reader goes on behind events that are nowhere",
		file: "eventlog/follow.go",
		cut:  "!first.Follows(f.last) || first.Counter() != 1",
		put:  "!first.Follows(f.last)",
		in:   "eventlog", tests: "TestFollowGoesFromTheArchivesEndToTheNextEpochAndNowhereElse",
	},
	{
		name: "local-generation-vouches-for-a-gap", why: "a view skips events that only the archive has",
		file: "eventlog/follow.go",
		cut:  " && (i == 0 || l.gens[i-1].Ordinal != l.gens[i].Ordinal-1)",
		put:  " && i == 0",
		in:   "eventlog", tests: "TestFollowAsksTheArchiveForAGenerationThatIsMissingInTheMiddle",
	},
	{
		name: "short-body-taken-for-whole", why: "a client that breaks off has stored half a block",
		file: "eventlog/body.go",
		cut:  `return false, fmt.Errorf("%w: %d of %d bytes", ErrShortBody, b.Length+uint64(n), size)`,
		put:  "return true, nil",
		in:   "eventlog", tests: "TestABodyThatIsCutShortOrTooLargeIsRefusedAndNothingOfItKept",
	},
	{
		name: "body-larger-than-allowed", why: "one client fills the disk",
		file: "eventlog/body.go",
		cut:  "if int64(b.Length) > limit {",
		put:  "if int64(b.Length) > limit+ChunkSize {",
		in:   "eventlog", tests: "TestABodyThatIsCutShortOrTooLargeIsRefusedAndNothingOfItKept",
	},
	{
		name: "reserve-for-everybody", why: "deletes find no room on a full disk",
		file: "eventlog/admission.go",
		cut: `	if urgent {
		floor`,
		put: `	if floor > 0 {
		floor`,
		in: "eventlog", tests: "TestTheLogRefusesWhatItCannotTake",
	},
	{
		name: "backlog-without-bound", why: "a bucket that is away fills the disk",
		file: "eventlog/admission.go",
		cut:  "waiting+backlog > l.MaxBacklog",
		put:  "waiting+backlog > 2*l.MaxBacklog",
		in:   "eventlog", tests: "TestTheLogRefusesWhatItCannotTake",
	},
}
