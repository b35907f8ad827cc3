// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package durable

import (
	"fmt"
	"os"
)

// SyncData makes the bytes of f durable.
func SyncData(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync data of %s: %w", f.Name(), err)
	}
	return nil
}

// StartWriteback is a hint that this system has no call for.
func StartWriteback(*os.File, int64, int64) {}
