// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// RemoveAll removes path and all below it, and fsyncs its directory. That it
// was absent is no error. A crash in the middle can leave a part of the tree.
func RemoveAll(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}
