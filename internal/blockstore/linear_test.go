// SPDX-License-Identifier: Apache-2.0

package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/strandline-project/strandline/eventlog"
)

// blockOp is one request about one block, as its client saw it.
type blockOp struct {
	verb  string // put, delete, stat, get, list
	block int
}

// oneBlock is what a client may see of a block: it is there or it is not.
var oneBlock = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[int][]porcupine.Operation{}
		for _, op := range history {
			n := op.Input.(blockOp).block
			parts[n] = append(parts[n], op)
		}
		var all [][]porcupine.Operation
		for _, part := range parts {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return false },
	Step: func(state, input, output any) (bool, any) {
		switch input.(blockOp).verb {
		case "put":
			return true, true
		case "delete":
			return true, false
		}
		return output.(bool) == state.(bool), state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
}

// client sends random requests and writes down what it saw. A request whose
// client gave up may take effect at any later time.
type client struct {
	w       *world
	id      int
	random  *rand.Rand
	clock   *atomic.Int64
	history []porcupine.Operation
}

func (c *client) run(requests int) error {
	for range requests {
		op := blockOp{[]string{"put", "delete", "put", "delete", "stat", "get", "list"}[c.random.IntN(7)], c.random.IntN(3)}
		ctx, cancel := context.WithCancel(context.Background())
		if c.random.IntN(4) == 0 {
			pause := time.Duration(c.random.IntN(2000)) * time.Microsecond
			timer := time.AfterFunc(pause, cancel)
			defer timer.Stop()
		}
		call := c.clock.Add(1)
		seen, err := c.ask(ctx, op)
		cancel()
		back := c.clock.Add(1)
		switch {
		case errors.Is(err, context.Canceled):
			if op.verb != "put" && op.verb != "delete" {
				continue
			}
			back = 1 << 60
		case err != nil:
			return fmt.Errorf("%v: %w", op, err)
		}
		c.history = append(c.history, porcupine.Operation{ClientId: c.id, Input: op, Call: call, Output: seen, Return: back})
	}
	return nil
}

func (c *client) ask(ctx context.Context, op blockOp) (bool, error) {
	content := bytesOf(op.block, 70_000)
	r := ref(eventlog.KindIndex, content)
	switch op.verb {
	case "put":
		return true, c.w.Put(ctx, "test", laptop, r, bytes.NewReader(content), int64(len(content)))
	case "delete":
		return false, c.w.Delete(ctx, "test", laptop, r)
	case "stat":
		_, err := c.w.Stat(ctx, laptop, r)
		return present(err)
	case "get":
		got, err := c.w.get(r)
		if err == nil && !bytes.Equal(got, content) {
			return false, errors.New("other bytes came back")
		}
		return present(err)
	}
	names, err := c.w.names(eventlog.KindIndex)
	_, ok := names[r.Name]
	return ok, err
}

func present(err error) (bool, error) {
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// TestRequestsAreLinearizable lets clients put, delete and read the same few
// blocks at once, and give up at random, while the views lag now and then.
func TestRequestsAreLinearizable(t *testing.T) {
	w := newWorld(t, Options{Ack: AckCommitted})
	var clock atomic.Int64
	var clients []*client
	var running sync.WaitGroup
	for i := range 8 {
		c := &client{w: w, id: i, random: rand.New(rand.NewPCG(42, uint64(i))), clock: &clock}
		clients = append(clients, c)
		running.Go(func() {
			if err := c.run(60); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	for lagging := true; lagging; {
		w.still.shut()
		select {
		case <-done:
			lagging = false
		case <-time.After(3 * time.Millisecond): // a lag, not a condition
		}
		w.still.lift()
		select {
		case <-done:
			lagging = false
		case <-time.After(5 * time.Millisecond): // time without a lag
		}
	}
	var history []porcupine.Operation
	for _, c := range clients {
		history = append(history, c.history...)
	}
	if len(history) < 300 {
		t.Errorf("only %d requests count", len(history))
	}
	if !porcupine.CheckOperations(oneBlock, history) {
		t.Fatal("no order of the requests explains what the clients saw")
	}
	closeStore(t, w)
	for i, runner := range w.runners {
		if err := runner.Err(); err != nil {
			t.Errorf("view %d stopped: %v", i, err)
		}
	}
	w.reproject()
}
