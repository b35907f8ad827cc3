// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// filler turns pieces into data blocks and sends those that the server lacks,
// a few at a time. All methods belong to one goroutine; only the sending runs
// beside it. At most Options.Connections+1 blocks are in memory.
type filler struct {
	client *Client
	ctx    context.Context // ends when a block could not be stored
	group  *errgroup.Group
	known  *known

	shared  []byte  // the block of small pieces in the making
	waiting []owner // whose pieces are in shared

	blocks int   // sent
	bytes  int64 // sent
}

// owner is a piece whose block has no name yet.
type owner struct {
	entry *entry
	piece int
}

// known is what the server has already.
type known struct {
	pieces map[string]piece // by the piece's hash; their blocks are all listed
	blocks map[string]bool  // names of data blocks
}

func newFiller(ctx context.Context, c *Client, known *known) *filler {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.opts.Connections)
	return &filler{client: c, ctx: ctx, group: group, known: known}
}

// add appends data to e as its next piece. A piece that is known from before
// is only named; a full one becomes a block; others share one. data is copied.
func (f *filler) add(e *entry, data []byte) error {
	hash := hashName(data)
	if p, ok := f.known.pieces[hash]; ok {
		e.Pieces = append(e.Pieces, p)
		return nil
	}
	e.Pieces = append(e.Pieces, piece{Hash: hash, Length: int64(len(data))})
	last := len(e.Pieces) - 1
	if len(data) == pieceSize {
		e.Pieces[last].Block = hash
		f.known.pieces[hash] = e.Pieces[last]
		return f.send(hash, append([]byte(nil), data...))
	}
	if len(f.shared)+len(data) > maxBlock {
		if err := f.flush(); err != nil {
			return err
		}
	}
	e.Pieces[last].Offset = int64(len(f.shared))
	f.shared = append(f.shared, data...)
	f.waiting = append(f.waiting, owner{entry: e, piece: last})
	return nil
}

// flush sends the shared block and tells its pieces its name.
func (f *filler) flush() error {
	if len(f.shared) == 0 {
		return nil
	}
	name, body := hashName(f.shared), f.shared
	for _, o := range f.waiting {
		p := &o.entry.Pieces[o.piece]
		p.Block = name
		f.known.pieces[p.Hash] = *p
	}
	f.shared, f.waiting = nil, nil
	return f.send(name, body)
}

// send stores a block unless the server has it; it owns body.
func (f *filler) send(name string, body []byte) error {
	if f.known.blocks[name] {
		return nil
	}
	if err := context.Cause(f.ctx); err != nil {
		return fmt.Errorf("stopped before block %s: %w", name, err)
	}
	f.known.blocks[name] = true
	f.blocks++
	f.bytes += int64(len(body))
	f.group.Go(func() error {
		if err := f.client.post(f.ctx, "data", name, body); err != nil {
			return fmt.Errorf("store block %s: %w", name, err)
		}
		return nil
	})
	return nil
}

// finish waits until every block has been acknowledged.
func (f *filler) finish() error { return f.group.Wait() }

// loadKnown collects what earlier backups stored, so that unchanged pieces are
// not sent again. Only what the server lists counts.
func (c *Client) loadKnown(ctx context.Context) (*known, error) {
	k := &known{pieces: map[string]piece{}, blocks: map[string]bool{}}
	data, err := c.list(ctx, "data")
	if err != nil {
		return nil, fmt.Errorf("list the data blocks: %w", err)
	}
	for _, row := range data {
		k.blocks[row.Name] = true
	}
	indexes, err := c.list(ctx, "index")
	if err != nil {
		return nil, fmt.Errorf("list the index blocks: %w", err)
	}
	for _, row := range indexes {
		t, err := c.loadTree(ctx, row.Name)
		if err != nil {
			return nil, err
		}
		k.add(t)
	}
	return k, nil
}

func (k *known) add(t *tree) {
	for i := range t.Entries {
		for _, p := range t.Entries[i].Pieces {
			if k.blocks[p.Block] {
				k.pieces[p.Hash] = p
			}
		}
	}
}

// loadTree reads and checks one index block.
func (c *Client) loadTree(ctx context.Context, name string) (*tree, error) {
	body, err := c.get(ctx, "index", name, maxMetaBytes)
	if err != nil {
		return nil, fmt.Errorf("read index %s: %w", name, err)
	}
	t, err := decodeTree(body)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", name, err)
	}
	return t, nil
}

func hashName(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
