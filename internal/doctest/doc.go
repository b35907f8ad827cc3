// SPDX-License-Identifier: Apache-2.0

// Package doctest holds no code: its tests keep the documents true. They run
// every command that stands in one, and compare what a document names (flags,
// settings, metrics, exit codes, functions, files, constants, byte offsets)
// with what is there.
//
// A fenced block marked sh is a part of its document's story: all blocks of a
// story run in one shell, in order, in a home directory of their own, against
// the built program. Comments in the document, which readers do not see, steer
// that:
//
//	<!-- story: NAME; needs: PROGRAM ... -->   a new story begins
//	<!-- needs: PROGRAM ... -->                the next block runs only where these are
//	<!-- not run: REASON -->                   the next block is not run
//	<!-- setup: SCENE -->                      what goes before the next block; see scenes
//	<!-- output -->                            the next text block is output of this story
//
// PROGRAM is one that internal/testkit knows, or minio for an S3 server: such
// blocks run when all tests run, and are left out otherwise. Output is compared
// line by line, with numbers, ids, times and paths taken for any other. A block
// marked go is a program that reads an archive; it runs against a new one.
package doctest
