// SPDX-License-Identifier: Apache-2.0

// Package checkpoint keeps copies of the views in the archive, so that a
// recovery begins with them and projects only what came after.
//
// A checkpoint is a manifest, which names files: those of each view's store,
// as they are. A file is named by the SHA-256 of its content, and a store's
// table files never change, so a checkpoint costs only the files that came
// since the last one. A Taker takes them, from the running server's views; a
// Shelf gives them back, to a recovery.
//
// What holds:
//   - A manifest is put last, after all files that it names were seen in the
//     bucket, after all events that its views include were archived, and after
//     a look at the claims showed that the log was still this server's. So it
//     stands for a checkpoint at or below the cut of its epoch.
//   - A checkpoint counts once each of its files was seen to be there, by name,
//     after its manifest was put. One that lacks a file is none: nothing is
//     removed because it is there.
//   - A removal takes manifests first, then files that no manifest names any
//     more; only by the server that owns the log, which it asks before each,
//     and nothing but keys of this package.
//   - Lists may lag. A list says what to look at. That something is there, or
//     is not, is believed where it decides only when it was asked for by name.
//   - A checkpoint is never the truth: whoever uses one checks every byte
//     against its hash, the digests against the rows, the position against the
//     log, and falls back to an older one or to the first event. So a lost
//     race, a damaged file or a removal at the wrong moment costs time only.
package checkpoint
