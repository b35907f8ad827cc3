// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strandline-project/strandline/internal/durable"
)

// What a start cuts off is kept as it was found, because nobody knows whether it
// was committed. Each crash can leave some, so there is a bound: the newest is
// kept always, older ones while all of them are no more than these. What a lossy
// start set aside has other names and stays for good.
const (
	cutMark  = "-cut-"
	maxCuts  = 16        // generations
	cutBytes = 256 << 20 // bytes of all
)

// kept is a generation that was cut.
type kept struct {
	path string
	made time.Time
	size int64
}

// boundCuts removes the oldest of what was cut, as far as the bounds want.
func boundCuts(aside string) error {
	cuts, err := listCuts(aside)
	if err != nil {
		return fmt.Errorf("reading what was cut: %w", err)
	}
	slices.SortFunc(cuts, func(a, b kept) int { return cmp.Or(b.made.Compare(a.made), cmp.Compare(b.path, a.path)) })
	var size int64
	for i, c := range cuts {
		if size += c.size; i == 0 || i < maxCuts && size <= cutBytes {
			continue
		}
		if err := durable.RemoveAll(c.path); err != nil {
			return fmt.Errorf("removing what was cut long ago: %w", err)
		}
	}
	return nil
}

func listCuts(aside string) (cuts []kept, err error) {
	dirs, err := os.ReadDir(aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if !strings.Contains(dir.Name(), cutMark) {
			continue
		}
		c := kept{path: filepath.Join(aside, dir.Name())}
		info, err := dir.Info()
		if err != nil {
			return nil, err
		}
		c.made = info.ModTime() // of the directory: when its files were made
		files, err := os.ReadDir(c.path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			info, err := file.Info()
			if err != nil {
				return nil, err
			}
			c.size += info.Size()
		}
		cuts = append(cuts, c)
	}
	return cuts, nil
}
