// SPDX-License-Identifier: Apache-2.0

package main

// ofTheWAL are bugs in what a start does with the WAL, and the order of syncs.
var ofTheWAL = []mutant{
	{
		name: "closed-generations-not-synced-again", why: "what a failed sync left in the page cache counts as durable",
		file: "eventlog/waltail.go",
		cut:  "if err := w.confirm(g); err != nil {",
		put:  "if err := error(nil); err != nil {",
		in:   "eventlog", tests: "TestClosedGenerationsThatAreNotArchivedAreSyncedAgain",
	},
	{
		name: "object-not-synced-again", why: "the same, of the object itself",
		file: "eventlog/waltail.go",
		cut:  "paths := []string{g.Path(), filepath.Join(g.dir, closedName), g.dir, w.dir}",
		put:  "paths := []string{g.dir, filepath.Join(g.dir, closedName), g.dir, w.dir}",
		in:   "eventlog", tests: "TestClosedGenerationsThatAreNotArchivedAreSyncedAgain",
	},
	{
		name: "set-aside-oldest-first", why: "a crash in the middle leaves a WAL with a gap",
		file: "eventlog/waltail.go",
		cut: `range slices.Backward(byOrdinal) { // newest first: what stays is always contiguous
		if attempts[0].Ordinal < from {
			break`,
		put: `range byOrdinal {
		if attempts[0].Ordinal < from {
			continue`,
		in: "eventlog", tests: "TestSettingAsideThatIsCutShortLeavesNoGap",
	},
	{
		name: "counting-attempt-set-aside-first", why: "a crash in the middle makes a bad copy count",
		file: "eventlog/waltail.go",
		cut:  "range []bool{false, true}",
		put:  "range []bool{true, false}",
		in:   "eventlog", tests: "TestTheAttemptThatCountsIsSetAsideLast",
	},
	{
		name: "tail-closed-in-spite-of-damage", why: "a start goes on without committed events",
		file: "eventlog/waltail.go",
		cut: `	if d := w.Damage(); d != nil {
		return d`,
		put: `	if d := w.Damage(); d != nil && d.Ordinal == 0 {
		return d`,
		in: "eventlog", tests: "TestReadingAWAL",
	},
	{
		name: "rewritten-payload-not-synced", why: "a trailer stands behind bytes that a power cut takes",
		file: "eventlog/waltail.go",
		cut:  "err = out.payload.Sync()",
		put:  "err = nil",
		in:   "eventlog", tests: "TestATailIsWrittenAgainPayloadsFirst",
	},
	{
		name: "durable-seq-not-believed", why: "damage in committed events is cut off as a torn tail",
		file: "eventlog/wal.go",
		cut:  "s.certain || s.after < r.durable:",
		put:  "s.certain:",
		in:   "eventlog", tests: "TestRotInWhatIsCommittedIsRefusedOrHarmlessButNeverSilent TestReadingAWAL",
	},
	{
		name: "views-are-no-witness", why: "a WAL that lost its end is taken for whole",
		file: "eventlog/wal.go",
		cut:  "walReader{w: w, last: bounds.Base, durable: bounds.Durable}",
		put:  "walReader{w: w, last: bounds.Base}",
		in:   "eventlog", tests: "TestReadingAWAL",
	},
	{
		name: "end-before-what-is-durable", why: "a WAL that lost its end is taken for whole",
		file: "eventlog/wal.go",
		cut:  "r.last >= r.durable {",
		put:  "r.last >= 0 {",
		in:   "eventlog", tests: "TestReadingAWAL",
	},
	{
		name: "carried-payload-not-synced-before-the-trailer", why: "a trailer stands behind bytes that a power cut takes",
		file: "eventlog/opengeneration.go",
		cut: `	if g.carries {
`,
		put: `	if g.carries && now.IsZero() {
`,
		in: "eventlog", tests: "TestNoFrameIsWrittenBeforeItsPayloadIsSynced",
	},
	{
		name: "closed-before-its-sync", why: "an object is shipped of which a power cut takes the end",
		file: "eventlog/opengeneration.go",
		cut: `	if err == nil {
		err = g.payload.Sync()
	}
	if err == nil { // only now`,
		put: `	if err == nil { // only now`,
		in:  "eventlog", tests: "TestNoFrameIsWrittenBeforeItsPayloadIsSynced",
	},
	{
		name: "failed-sync-again-ignored", why: "what no disk took counts as durable",
		file: "eventlog/waltail.go",
		cut:  "if err := w.confirm(g); err != nil {",
		put:  "if err := w.confirm(g); err != nil && g == nil {",
		in:   "eventlog", tests: "TestAClosedGenerationThatCannotBeSyncedAgainEndsTheStart",
	},
}
