// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/strandline-project/strandline/internal/durable"
)

// Disk is what the disk itself can do: one file that grows, with an fdatasync
// after each block. Its rate of small blocks is that of syncs alone, of large
// ones that of sequential writing.
func Disk() Peer {
	return Peer{Name: "disk", Puts: true, Start: func(_ context.Context, dir string) (*Instance, error) {
		file, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make the file: %w", err)
		}
		c := &diskClient{file: file}
		return &Instance{Client: func() Client { return c }, Stop: file.Close}, nil
	}}
}

// diskClient is one for all goroutines: a disk writes one block after the other.
type diskClient struct {
	mu   sync.Mutex
	file *os.File // written under mu
}

var _ Client = (*diskClient)(nil)

// errPutsOnly answers what a peer with Puts is not asked.
var errPutsOnly = errors.New("the disk alone knows no blocks")

func (c *diskClient) Lock(context.Context) error { return nil }
func (c *diskClient) Close() error               { return nil }

func (c *diskClient) Put(_ context.Context, name string, b body) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.file.Write(b.head[:])
	if err == nil {
		_, err = c.file.Write(b.tail)
	}
	if err == nil {
		err = durable.SyncData(c.file)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

func (c *diskClient) Get(context.Context, string, body) error { return errPutsOnly }

func (c *diskClient) Range(context.Context, string, body, int64, int64) error { return errPutsOnly }

func (c *diskClient) List(context.Context) error { return errPutsOnly }

func (c *diskClient) Delete(context.Context, string) error { return errPutsOnly }
