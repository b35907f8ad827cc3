// SPDX-License-Identifier: Apache-2.0

package main

// ofTheArchiver are bugs in what is put, read back, listed, shipped and removed.
var ofTheArchiver = []mutant{
	{
		name: "existing-object-taken-unseen", why: "a foreign object counts as ours, and our events are deleted here",
		file: "archiver/put.go",
		cut:  `			err = readBack(ctx, bucket, key, body)`,
		put:  `			err = nil`,
		in:   "archiver", tests: "TestOtherBytesAreDifferentAndStay",
	},
	{
		name: "read-back-of-a-longer-object-accepted", why: "the same",
		file: "archiver/put.go",
		cut:  "if info.Size != body.Size {",
		put:  "if info.Size < body.Size {",
		in:   "archiver", tests: "TestOtherBytesAreDifferentAndStay",
	},
	{
		name: "absence-after-existence-is-final", why: "one late answer ends the shipper",
		file: "archiver/put.go",
		cut:  `return errors.New("it exists, and then it does not")`,
		put:  "return err",
		in:   "archiver", tests: "TestAnObjectThatIsThereAndThenIsNotIsAskedForAgain",
	},
	{
		name: "shipped-without-a-look-at-the-claim", why: "a fenced server acknowledges what its successor does not have",
		file: "archiver/shipper.go",
		cut: `	took := time.Since(began)
	if err := s.confirm(ctx); err != nil {`,
		put: `	took := time.Since(began)
	if err := s.confirm(ctx); err != nil && took < 0 {`,
		in: "archiver", tests: "TestAZombieIsFenced",
	},
	{
		name: "idle-server-does-not-look-at-the-claim", why: "a fenced server goes on to answer",
		file: "archiver/shipper.go",
		cut: `			if err := s.confirm(ctx); err != nil {
				return err
			}
			continue`,
		put: `			continue`,
		in:  "archiver", tests: "TestAnIdleZombieFindsTheClaim",
	},
	{
		name: "unreadable-later-claim-is-no-fence", why: `no answer is taken for "nobody has claimed"`,
		file: "archiver/claim.go",
		cut: `	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a claim`,
		put: `	if err != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a claim`,
		in: "archiver", tests: "TestAClaimCheckWithoutAnAnswerIsNoAbsence",
	},
	{
		name: "claims-may-be-missing", why: "an epoch is claimed twice, and its seqs are issued again",
		file: "archiver/claim.go",
		cut: `if err == nil && !there {
			err = fmt.Errorf("%w: the claim`,
		put: `if err == nil && !there && epoch == 0 {
			err = fmt.Errorf("%w: the claim`,
		in: "archiver", tests: "TestEverySingleObjectThatIsMissingIsNamed",
	},
	{
		name: "holes-not-asked-for", why: "a list that lags makes a whole archive a broken one",
		file: "archiver/walk.go",
		cut:  "if err := r.byName(ctx, ordinal-1); err",
		put:  "if err := r.byName(ctx, r.next-1); err",
		in:   "archiver", tests: "TestAListThatKeepsLackingWhatIsThereIsRefused",
	},
	{
		name: "end-of-the-list-believed", why: "a recovery from a list that ends early ends early, and says that it is done",
		file: "archiver/walk.go",
		cut:  `	return r.byName(ctx, maxOrdinal)`,
		put:  `	return nil`,
		in:   "archiver", tests: "TestWhatOneListLacksIsAskedForByName",
	},
	{
		name: "objects-need-not-tile", why: "a recovery goes on behind events that are nowhere",
		file: "archiver/follow.go",
		cut:  "if t.known && !trailer.First.Follows(t.last) {",
		put:  "if t.known && trailer.First < t.last {",
		in:   "archiver", tests: "TestObjectsWhoseSeqsDoNotTileAreRefused",
	},
	{
		name: "object-of-another-log", why: "the events of another log are recovered",
		file: "archiver/metadata.go",
		cut:  "if trailer.LogID != a.logID {",
		put:  "if trailer.LogID == (eventlog.ID{}) {",
		in:   "archiver", tests: "TestAnObjectThatIsNotWhatItsNameSaysIsRefused",
	},
	{
		name: "janitor-trusts-what-it-reads-back", why: "the only good copy of events is deleted",
		file: "archiver/janitor.go",
		cut:  "if *trailer != *g.Trailer {",
		put:  "if trailer.LogID != g.Trailer.LogID {",
		in:   "archiver", tests: "TestTheJanitorLeavesWhatIsYoungOrNotSeenInTheArchive",
	},
	{
		name: "janitor-removes-before-it-records", why: "a crash leaves half a copy that the next start calls damage",
		file: "archiver/janitor.go",
		cut: `	if err := j.record(archived[len(archived)-1]); err != nil {
		return err
	}
`,
		put: "",
		in:  "archiver", tests: "TestAStartFindsWhatADropHasLeft",
	},
	{
		name: "known-end-ignored", why: "an archive that lost its end is taken for whole",
		file: "archiver/walk.go",
		cut:  "end = max(r.walk.archive.lastExpected(), r.walk.seen)",
		put:  "end = r.walk.seen",
		in:   "archiver", tests: "TestAnIndexObjectNamesTheEndOfItsRun",
	},
}
