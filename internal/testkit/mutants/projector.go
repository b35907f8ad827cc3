// SPDX-License-Identifier: Apache-2.0

package main

// ofTheProjector are bugs in the views.
var ofTheProjector = []mutant{
	{
		name: "view-skips-a-gap", why: "a view says that it is whole, and lacks events",
		file: "projector/project.go",
		cut:  "if !e.Seq.Follows(last) {",
		put:  "if e.Seq < last {",
		in:   "projector", tests: "TestAMissingEventStopsEveryView",
	},
	{
		name: "half-an-event-applied", why: "a refused event leaves traces",
		file: "projector/sink.go",
		cut: `			s.rows.rollback()
			return err
		}
	}
	s.waiting++`,
		put: `			return err
		}
	}
	s.waiting++`,
		in: "projector", tests: "TestSeatbelts",
	},
	{
		name: "position-ahead-of-rows", why: "after a crash an event is missing from the view",
		file: "projector/settle.go",
		cut:  "s.state.position, s.state.time, s.state.digest = position, time, s.sum.digest()",
		put:  "s.state.position, s.state.time, s.state.digest = position+1, time, s.sum.digest()",
		in:   "projector", tests: "TestLiveRebuiltAndModelAreEqualAtEveryStep",
	},
	{
		name: "recorded-digest-not-compared", why: "a view that is wrong serves",
		file: "projector/settle.go",
		cut:  "if ours != Digest(view.Digest) {",
		put:  "if ours != Digest(view.Digest) && entry == nil {",
		in:   "projector", tests: "TestRecordedDigests",
	},
	{
		name: "digest-without-the-key", why: "rows of two blocks may be exchanged",
		file: "projector/digest.go",
		cut: `	h.text = append(h.text, key...)
`,
		put: "",
		in:  "projector", tests: "TestTheDigestOfARowIsFixed",
	},
	{
		name: "removed-rows-stay-in-the-digest", why: "live and rebuilt views differ",
		file: "projector/settle.go",
		cut:  "s.count(row.summed, key, machine, (*sum).sub)",
		put:  "s.count(span{}, key, machine, (*sum).sub)",
		in:   "projector", tests: "TestLiveRebuiltAndModelAreEqualAtEveryStep",
	},
	{
		name: "delete-of-another-store", why: "a late delete takes a block that was stored again",
		file: "projector/sink.go",
		cut:  "if o.want != AnySeq && seq != o.want {",
		put:  "if o.want != AnySeq && seq < o.want {",
		in:   "projector", tests: "TestSeatbelts",
	},
	{
		name: "store-over-a-live-block", why: "a block is replaced without a trace",
		file: "projector/sink.go",
		cut: `		if live := s.rows.rows[index].row; live != (span{}) {
			return s.broken`,
		put: `		if live := s.rows.rows[index].row; live != (span{}) && entry == nil {
			return s.broken`,
		in: "projector", tests: "TestSeatbelts",
	},
	{
		name: "deleted-blocks-forgotten", why: "a payload that is used again is not found",
		file: "projector/sink.go",
		cut: `	if o.table.History {
`,
		put: `	if o.table.History && o.want == 0 {
`,
		in: "projector", tests: "TestABlockStoredDeletedAndStoredAgain",
	},
	{
		name: "merge-keeps-no-history", why: "the same, after a recovery",
		file: "projector/merge.go",
		cut:  `	return m.history.add(m.row.key, m.row.seq, r.seq, m.row.value, m.row.aside)`,
		put:  `	return nil`,
		in:   "projector", tests: "TestLoadedViewsAreTheLiveOnes",
	},
	{
		name: "merge-deletes-another-store", why: "a recovery takes what a live view refuses",
		file: "projector/merge.go",
		cut:  "case r.want != AnySeq && r.want != m.row.seq:",
		put:  "case r.want != AnySeq && r.want > m.row.seq:",
		in:   "projector", tests: "TestALoadTellsTheSameViolation",
	},
	{
		name: "machine-registered-again", why: "whoever registers a machine again has its blocks",
		file: "projector/machine.go",
		cut:  `	if err := ownSeq("machine", e.Machine, e.Seq); err != nil {`,
		put:  `	if err := ownSeq("machine", e.Machine, e.Seq); err != nil && e.Machine > e.Seq {`,
		in:   "projector", tests: "TestSeatbelts",
	},
	{
		name: "bar-not-kept", why: "a client goes on with a session that lost data",
		file: "projector/machine.go",
		cut: `		c.Put(bars, key[:], nil)
`,
		put: "",
		in:  "projector", tests: "TestLiveRebuiltAndModelAreEqualAtEveryStep",
	},
	{
		name: "unlocked-by-anyone", why: "a late delete takes the lock of somebody else",
		file: "projector/machine.go",
		cut:  "c.Remove(RuleDeleteStored, locks, append(key[:], e.Block...), e.Undoes, nil)",
		put:  "c.Remove(RuleDeleteStored, locks, append(key[:], e.Block...), AnySeq, nil)",
		in:   "projector", tests: "TestSeatbelts",
	},
	{
		name: "waiter-released-early", why: "a client does not see what it has just stored",
		file: "projector/runner.go",
		cut:  `		if w.seq <= position {`,
		put:  `		if w.seq <= position+1 {`,
		in:   "projector", tests: "TestAWaiterIsReleasedByItsEvent",
	},
	{
		name: "cleaned-range-hides-a-gap", why: "a cleaned range excuses events that are missing",
		file: "projector/project.go",
		cut:  "if !r.First.Follows(last) && !r.Contains(last) {",
		put:  "if r.First < last && !r.Contains(last) {",
		in:   "projector", tests: "TestCleanedRangesBridgeGaps",
	},
}
