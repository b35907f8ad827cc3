// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// driver runs one load against one instance.
type driver struct {
	load    Load
	content *content
	clients []Client
	next    atomic.Int64  // the next block that nobody has put yet
	started atomic.Int64  // operations begun, of load.MaxOps
	doomed  atomic.Int64  // the next block to delete
	turn    atomic.Int64  // operations begun since the clock started
	every   time.Duration // at least so long from the beginning of one operation to that of the next; 0: at once
}

// drive prepares contents and connections, lets the clock run, and returns
// what was measured. An error means that there is no measurement; a failed
// operation is part of one.
func drive(ctx context.Context, instance *Instance, load Load) (Result, error) {
	d, err := newDriver(ctx, instance, load)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	if load.Beside == nil {
		unix.Sync() // what the peer before left to the kernel is not to be paid for by this one
		return d.measure(ctx), ctx.Err()
	}
	return d.measureBeside(ctx, instance)
}

// newDriver prepares a load.
func newDriver(ctx context.Context, instance *Instance, load Load) (*driver, error) {
	d := &driver{load: load, content: newContent(load.names(), load.Size)}
	for range load.Clients {
		d.clients = append(d.clients, instance.Client())
	}
	err := d.prepare(ctx)
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *driver) close() {
	for _, client := range d.clients {
		client.Close() // it has said all it had to say
	}
}

// measureBeside measures while load.Beside runs, first as fast as it goes, to
// learn the rate, and then at half of that. Only the second is the result.
func (d *driver) measureBeside(ctx context.Context, instance *Instance) (Result, error) {
	other, err := newDriver(ctx, instance, *d.load.Beside)
	if err != nil {
		return Result{}, err
	}
	defer other.close()
	duration, most := d.load.Duration, d.load.MaxOps
	other.load.Duration = duration + duration/3
	unix.Sync()
	ended := make(chan Result)
	go func() { ended <- other.measure(ctx) }()
	d.load.Duration, d.load.MaxOps = duration/3, most/3
	full := d.measure(ctx)
	result := full
	if full.Ops > 0 {
		d.load.Duration, d.load.MaxOps, d.every = duration, most, 2*full.Elapsed/time.Duration(full.Ops)
		d.started.Store(int64(full.Ops + full.Errors))
		result = d.measure(ctx)
		result.Errors += full.Errors
		result.FirstError = cmp.Or(full.FirstError, result.FirstError)
	}
	beside, done := <-ended, result.Ops+result.Errors
	result.Errors += beside.Errors
	result.FirstError = cmp.Or(result.FirstError, beside.FirstError)
	switch {
	case ctx.Err() != nil || full.Ops == 0:
		return result, ctx.Err()
	case done == full.Errors:
		return result, fmt.Errorf("%d operations were not enough for %s", most, duration)
	case beside.Elapsed < full.Elapsed+result.Elapsed*9/10:
		return result, fmt.Errorf("%s ended after %s of %s", d.load.Beside, beside.Elapsed, full.Elapsed+result.Elapsed)
	}
	return result, nil
}

// names is how many different blocks the load can come to store.
func (l Load) names() int {
	if l.Op == OpPut || l.Op == OpMixed {
		return l.Stored + l.MaxOps
	}
	return l.Stored
}

// prepare stores the lock, and the blocks that are there before the clock
// starts.
func (d *driver) prepare(ctx context.Context) error {
	if d.load.Lock {
		if err := d.clients[0].Lock(ctx); err != nil {
			return fmt.Errorf("store the lock: %w", err)
		}
	}
	if d.load.Op == OpPut {
		return nil
	}
	if err := d.store(ctx); err != nil {
		return fmt.Errorf("store the blocks to work on: %w", err)
	}
	return nil
}

func (d *driver) store(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, client := range d.clients {
		group.Go(func() error {
			for i := d.next.Add(1) - 1; i < int64(d.load.Stored); i = d.next.Add(1) - 1 {
				if err := client.Put(ctx, d.content.names[i], d.content.body(int(i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	d.next.Store(int64(d.load.Stored))
	return err
}

// measure lets every client work until the time or the operations are over.
func (d *driver) measure(ctx context.Context) Result {
	parts := make([]Result, len(d.clients))
	start := time.Now()
	deadline := start.Add(d.load.Duration)
	d.turn.Store(0)
	var group sync.WaitGroup
	for i, client := range d.clients {
		group.Go(func() { parts[i] = d.work(ctx, client, start, deadline) })
	}
	group.Wait()
	whole := Result{Elapsed: time.Since(start)}
	for _, part := range parts {
		whole.add(part)
	}
	return whole
}

// work does one operation after the other. A paced one counts from the moment
// when it was due: that all clients were busy then is what its caller would wait
// for, too.
func (d *driver) work(ctx context.Context, client Client, start, deadline time.Time) Result {
	var r Result
	r.latencies = make([]time.Duration, 0, min(d.load.MaxOps, 1<<16))
	for ctx.Err() == nil && d.started.Add(1) <= int64(d.load.MaxOps) {
		due := start.Add(time.Duration(d.turn.Add(1)-1) * d.every)
		if due.After(deadline) {
			break
		}
		time.Sleep(time.Until(due)) // not at all, when it is late or every is 0
		begin := time.Now()
		if d.every > 0 {
			begin = due
		} else if begin.After(deadline) {
			break
		}
		bytes, err := d.one(ctx, client)
		r.latencies = append(r.latencies, time.Since(begin))
		r.note(bytes, err)
	}
	return r
}

// one does one operation and returns the bytes of blocks that it moved.
func (d *driver) one(ctx context.Context, client Client) (int64, error) {
	op := d.load.Op
	if op == OpMixed {
		op = mixed(rand.IntN(100))
	}
	switch op {
	case OpPut:
		i := d.next.Add(1) - 1
		return d.load.Size, client.Put(ctx, d.content.names[i], d.content.body(int(i)))
	case OpDelete:
		return 0, client.Delete(ctx, d.content.names[d.deletable()])
	case OpList:
		return 0, client.List(ctx)
	}
	i := d.readable()
	if op == OpRange {
		n := min(d.load.Size, rangeSize)
		return n, client.Range(ctx, d.content.names[i], d.content.body(i), rand.Int64N(d.load.Size-n+1), n)
	}
	return d.load.Size, client.Get(ctx, d.content.names[i], d.content.body(i))
}

func mixed(dice int) Op {
	switch {
	case dice < 60:
		return OpGet
	case dice < 90:
		return OpPut
	case dice < 98:
		return OpDelete
	}
	return OpList
}

// readable picks a block that is there: in a mixed load the first half of the
// stored ones is for reading, and deletes take the second.
func (d *driver) readable() int {
	if d.load.Op == OpMixed {
		return rand.IntN((d.load.Stored + 1) / 2)
	}
	return rand.IntN(d.load.Stored)
}

// deletable picks the next block to delete. A mixed load may come round to
// one that is gone, which is also answered.
func (d *driver) deletable() int {
	i := int(d.doomed.Add(1) - 1)
	if d.load.Op == OpMixed {
		kept := (d.load.Stored + 1) / 2
		return kept + i%(d.load.Stored-kept)
	}
	return i
}
