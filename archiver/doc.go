// SPDX-License-Identifier: Apache-2.0

// Package archiver keeps a log where the loss of a machine does not reach it:
// in a Bucket, as immutable objects, each put once and never over another.
//
// What a bucket holds:
//
//	strandline.json                    whose archive this is; put once by Init
//	epoch/<epoch>                      the claims, one for each start of a server
//	log/<first>-<last>.<revision>      the objects, dense by ordinal
//	index/<run>.<revision>             the footers of 256 objects once more, in one; see IndexBuilder
//
// Ordinals are dense, and every object says which sequence numbers it covers,
// so a hole is always loss and is named, never skipped. Archive reads all of
// this back: Objects lists, Metadata reads what one object says, Follow yields
// the events in order. None of them reads a payload.
//
// A Bucket never retries; this package does, because only it knows which call
// may be made twice.
package archiver
