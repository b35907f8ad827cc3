// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// CheckReport is what a Check looked at.
type CheckReport struct {
	Snapshots int
	Blocks    int   // of all kinds that have a hash for a name
	Bytes     int64 // read and hashed
}

// Check reads every data, index and snapshots block, hashes it, compares its
// length with the listing, and makes sure that everything a snapshot needs is
// there. It looks at all of it and returns all the faults that it found,
// joined; nil means that every backup can be restored.
func (c *Client) Check(ctx context.Context) (CheckReport, error) {
	if err := c.checkConfig(ctx); err != nil {
		return CheckReport{}, fmt.Errorf("check: %w", err)
	}
	run := &checkRun{client: c, sizes: map[string]int64{}, indexes: map[string]bool{}}
	for _, step := range []func(context.Context) error{run.readData, run.readIndexes, run.readSnapshots} {
		if err := step(ctx); err != nil {
			return run.report, fmt.Errorf("check: %w", err)
		}
	}
	return run.report, errors.Join(run.faults...)
}

// checkRun is the state of one Check.
type checkRun struct {
	client  *Client
	sizes   map[string]int64 // of the data blocks; written by readData before others read it
	indexes map[string]bool  // whole ones

	mu     sync.Mutex
	report CheckReport
	faults []error
}

func (r *checkRun) readData(ctx context.Context) error {
	rows, err := r.client.list(ctx, "data")
	if err != nil {
		return fmt.Errorf("list data: %w", err)
	}
	for _, row := range rows {
		r.sizes[row.Name] = row.Size
	}
	return r.each(ctx, "data", rows, maxBlock, nil)
}

// readIndexes makes sure that every piece lies inside of a block that exists.
func (r *checkRun) readIndexes(ctx context.Context) error {
	rows, err := r.client.list(ctx, "index")
	if err != nil {
		return fmt.Errorf("list index: %w", err)
	}
	return r.each(ctx, "index", rows, maxMetaBytes, func(name string, body []byte) error {
		t, err := decodeTree(body)
		if err != nil {
			return err
		}
		for i := range t.Entries {
			for _, p := range t.Entries[i].Pieces {
				if size, ok := r.sizes[p.Block]; !ok || p.Offset+p.Length > size {
					return fmt.Errorf("%s needs %d bytes at %d of block %s, which is missing or shorter", t.Entries[i].Path, p.Length, p.Offset, p.Block)
				}
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.indexes[name] = true
		return nil
	})
}

func (r *checkRun) readSnapshots(ctx context.Context) error {
	rows, err := r.client.list(ctx, "snapshots")
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	return r.each(ctx, "snapshots", rows, maxMetaBytes, func(name string, body []byte) error {
		s, err := decodeSnapshot(name, body)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.report.Snapshots++
		if !r.indexes[s.Index] {
			return fmt.Errorf("its index %s is missing or damaged", s.Index)
		}
		return nil
	})
}

// each reads and verifies the listed blocks, a few at a time, and collects
// the faults; inspect, if there is one, looks at the content of whole ones. An
// error means that the check itself could not go on.
func (r *checkRun) each(ctx context.Context, kind string, rows []listed, limit int64, inspect func(string, []byte) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.client.opts.Connections)
	for _, row := range rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := r.one(ctx, kind, row, limit, inspect)
			if err != nil && ctx.Err() != nil {
				return err
			}
			r.note(row, kind, err)
			return nil
		})
	}
	return group.Wait()
}

func (r *checkRun) one(ctx context.Context, kind string, row listed, limit int64, inspect func(string, []byte) error) error {
	body, err := r.client.get(ctx, kind, row.Name, limit)
	if err != nil {
		return err
	}
	if int64(len(body)) != row.Size {
		return fmt.Errorf("it has %d bytes, the listing says %d", len(body), row.Size)
	}
	if inspect == nil {
		return nil
	}
	return inspect(row.Name, body)
}

func (r *checkRun) note(row listed, kind string, fault error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Blocks++
	r.report.Bytes += row.Size
	if fault != nil {
		r.faults = append(r.faults, fmt.Errorf("%s/%s: %w", kind, row.Name, fault))
	}
}
