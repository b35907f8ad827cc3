// SPDX-License-Identifier: Apache-2.0

package main

// ofTheStart are bugs in claims, take-overs, and what is lost by them.
var ofTheStart = []mutant{
	{
		name: "gap-between-archive-and-wal", why: "the end of an epoch is gone, and nobody is told",
		file: "archiver/compare.go",
		cut:  "if g.Ordinal != ordinal+1 {",
		put:  "if g.Ordinal <= ordinal {",
		in:   "archiver", tests: "TestAMissingEndOfAnEpochBetweenArchiveAndWALIsNamed",
	},
	{
		name: "lossy-without-a-record", why: "a crash makes the next start forget that events were lost",
		file: "archiver/compare.go",
		cut: `	if err := s.Dir.Update(func(state *State) { state.markLossy(reason, aside...) }); err != nil {
		return err
	}
`,
		put: "",
		in:  "archiver", tests: "TestAStartThatCrashesAtAnyStepIsFinishedByTheNext",
	},
	{
		name: "own-archive-goes-on-without-loss", why: "a disk that was rolled back is served as whole",
		file: "archiver/compare.go",
		cut:  "case s.own && s.end.ordinal > known:",
		put:  "case s.own && s.end.ordinal > known && known == 0:",
		in:   "archiver", tests: "TestADiskRolledBackIsFoundStale",
	},
	{
		name: "equal-number-of-events-is-equal", why: "local events that are not history are served",
		file: "archiver/compare.go",
		cut:  "if string(entries[i].Raw) != string(footer.Entries[i].Raw) {",
		put:  "if len(entries[i].Raw) == 0 {",
		in:   "archiver", tests: "TestTwoServersThatSleepAtAnyCallNeverBothArchive",
	},
	{
		name: "take-over-without-being-told", why: "a second server bars the first",
		file: "archiver/precheck.go",
		cut:  "if s.own || s.handedOver() || s.TakeOver {",
		put:  "if s.own || s.handedOver() || s.TakeOver || s.highest != nil {",
		in:   "archiver", tests: "TestADeadServerThatComesBackMustNotTakeOverByItself",
	},
	{
		name: "hand-over-whoever-came-after", why: "two servers own the log",
		file: "archiver/start.go",
		cut:  "if trailer.Epoch >= s.claim.Epoch {",
		put:  "if trailer.Epoch > s.claim.Epoch+1 {",
		in:   "archiver", tests: "TestAnObjectOfAHigherEpochMeansThatThisClaimerHasLost",
	},
	{
		name: "claim-of-another-passed-over", why: "two servers own the log",
		file: "archiver/start.go",
		cut:  "if state := s.Dir.State(); state.owns(epoch, taken.claim.Writer) {",
		put:  "if state := s.Dir.State(); taken.claim.Writer != state.DirID {",
		in:   "archiver", tests: "TestAClaimThatCameFirstIsNotPassedOver",
	},
	{
		name: "take-over-not-lossy", why: "clients trust what the old server acknowledged and nobody has",
		file: "archiver/start.go",
		cut: `	case s.handedOver():
		return ""`,
		put: `	case s.handedOver() || !s.own:
		return ""`,
		in: "archiver", tests: "TestALostMachineIsTakenOverAndItsSessionsAreBarred",
	},
	{
		name: "sessions-not-barred", why: "a backup ends well that lacks what was lost",
		file: "archiver/start.go",
		cut:  "event.Lossy, event.Barred = true, barred",
		put:  "event.Lossy, event.Barred = true, barred[:0]",
		in:   "archiver", tests: "TestALostMachineIsTakenOverAndItsSessionsAreBarred",
	},
	{
		name: "epoch-not-confirmed", why: "a server serves that was fenced while it started",
		file: "archiver/start.go",
		cut: `		if errors.Is(err, ErrFenced) {
			return permanent(err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	started :=`,
		put: `		if errors.Is(err, ErrFenced) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	started :=`,
		in: "archiver", tests: "TestAClaimAfterOursButBeforeOurEpochStartedFencesUs",
	},
	{
		name: "state-not-checked", why: "a state file edited by hand is believed",
		file: "archiver/state.go",
		cut:  "sum != checked.CRC32C {",
		put:  `sum != checked.CRC32C && sum == "" {`,
		in:   "archiver", tests: "TestADamagedOrEditedStateIsRefused",
	},
	{
		name: "writer-not-recorded-before-the-claim", why: "after a crash a server does not know its own claim",
		file: "archiver/claim.go",
		cut: `		state.Claims = append(state.Claims, OwnClaim{Epoch: epoch, Writer: claim.Writer})
`,
		put: "",
		in:  "archiver", tests: "TestAClaimThatFailedButWasDoneIsFoundToBeItsOwn",
	},
	{
		name: "copy-keeps-its-originals-claims", why: "a copy of a directory starts while its original serves",
		file: "archiver/precheck.go",
		cut:  `s.own = s.copied == ""`,
		put:  `s.own = s.own || s.copied == ""`,
		in:   "archiver", tests: "TestACopyOfALivingServersDirectoryNeedsATakeOverAndIsLossy",
	},
	{
		name: "empty-wal-is-no-loss", why: "acknowledged events are missed by nobody",
		file: "archiver/start.go",
		cut:  `	case s.bare:`,
		put:  `	case s.bare && s.TakeOver:`,
		in:   "archiver", tests: "TestAWALThatIsGoneOrEmptyIsALossAfterAnUncleanEnd",
	},
}
