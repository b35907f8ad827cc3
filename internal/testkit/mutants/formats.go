// SPDX-License-Identifier: Apache-2.0

package main

// ofFormats are bugs in frames, footers, trailers, payloads.
var ofFormats = []mutant{
	{
		name: "frame-checksum-not-looked-at", why: "rot in a frame is read as an event",
		file: "eventlog/frame.go",
		cut:  "Checksum(b[:len(b)-frameTrailer]); got != sum {",
		put:  "Checksum(b[:len(b)-frameTrailer]); got != sum && sum == 0 {",
		in:   "eventlog", tests: "TestEveryFlippedBitOfASealedLogIsRefusedOrHarmless",
	},
	{
		name: "frames-need-not-follow", why: "events are missing from the middle, and nobody is told",
		file: "eventlog/segment.go",
		cut:  "case f.seq != last.seq.Next():",
		put:  "case f.seq < last.seq:",
		in:   "eventlog", tests: "TestFramesOfASegmentMustFitEachOther",
	},
	{
		name: "frames-of-another-log", why: "frames of another log are history",
		file: "eventlog/walread.go",
		cut:  "if t.head.LogID != r.w.logID {",
		put:  "if t.head.LogID == (ID{}) {",
		in:   "eventlog", tests: "TestAFolderThatIsNoWALOfThisLogIsRefusedAndNotTouched",
	},
	{
		name: "payload-checksum-not-looked-at", why: "rot in a payload is served, and written again as good",
		file: "eventlog/generation.go",
		cut:  "binary.LittleEndian.Uint32(p.Sums[4*i:]); got != want {",
		put:  "binary.LittleEndian.Uint32(p.Sums[4*i:]); got != want && len(chunk) == 0 {",
		in:   "eventlog", tests: "TestEveryFlippedBitOfAPayloadThatNoFrameCarriesIsRefused",
	},
	{
		name: "rot-in-a-closed-generation-shipped", why: "rot is archived with good checksums around it",
		file: "eventlog/generation.go",
		cut:  "if payloads != g.Trailer.PayloadSum {",
		put:  "if payloads != g.Trailer.PayloadSum && sum == 0 {",
		in:   "eventlog", tests: "TestEveryFlippedBitOfAClosedGenerationIsRefusedOrHarmless",
	},
	{
		name: "trailer-checksum-not-looked-at", why: "rot in a trailer is believed",
		file: "eventlog/object.go",
		cut:  "sum != Checksum(b[:140]) {",
		put:  "sum != Checksum(b[:140]) && sum == 0 {",
		in:   "eventlog", tests: "TestEveryFlippedBitOfAnObjectIsFound",
	},
	{
		name: "footer-checksum-not-looked-at", why: "rot in a footer is believed",
		file: "eventlog/footer.go",
		cut:  "sum := Checksum(compressed); sum != t.FooterSum {",
		put:  "sum := Checksum(compressed); sum != t.FooterSum && len(compressed) == 0 {",
		in:   "eventlog", tests: "TestEveryFlippedBitOfAnObjectIsFound",
	},
	{
		name: "trailer-believed-against-its-frames", why: "a block that looks like an end invents history",
		file: "eventlog/closed.go",
		cut:  "if *found != *want || found.ClosedAt",
		put:  "if found.LogID != want.LogID || found.ClosedAt",
		in:   "eventlog", tests: "TestAnEndThatSaysOtherThanTheFramesIsNone",
	},
	{
		name: "footer-believed-against-its-frames", why: "the same",
		file: "eventlog/closed.go",
		cut:  "if !bytes.Equal(a.Raw, b.Raw) || a",
		put:  "if a",
		in:   "eventlog", tests: "TestAnEndThatSaysOtherThanTheFramesIsNone",
	},
}
