// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/strandline-project/strandline/archiver"
)

// readBounds is the flag --read-concurrency of what reads much of an archive.
type readBounds struct{ archiver.AdaptiveOptions }

var _ pflag.Value = (*readBounds)(nil)

func (b *readBounds) bind(flags *pflag.FlagSet) {
	flags.Var(b, "read-concurrency", "bounds of the reads under way at once, MIN-MAX (default 2-512)")
}

// Set implements pflag.Value.
func (b *readBounds) Set(text string) (err error) {
	b.Min, b.Max, err = parseBounds(text)
	return err
}

// String implements pflag.Value.
func (b *readBounds) String() string {
	if b.Max == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", b.Min, b.Max)
}

// Type implements pflag.Value.
func (b *readBounds) Type() string { return "MIN-MAX" }
