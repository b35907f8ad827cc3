// SPDX-License-Identifier: Apache-2.0

// Package bench measures servers of the restic REST protocol under load, next
// to each other: Strandline with its archive in a directory or in MinIO,
// `rclone serve restic`, a baseline that writes plain files durably, and the disk.
//
// The peers take turns (A B C, C B A, A B C), each in a fresh directory, with
// the same loads, and the table shows the first peer's rate as a multiple of
// each other's. Contents are made and hashed before the clock runs. Errors are
// counted, and the first one is shown; a row with errors is not a result.
package bench

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Op is what a load does.
type Op string

// The operations. Mixed is 60 % get, 30 % put, 8 % delete, 2 % list.
const (
	OpPut    Op = "put"
	OpGet    Op = "get"
	OpRange  Op = "range" // get of a random part of a block, at most 64 KiB
	OpList   Op = "list"
	OpDelete Op = "delete"
	OpMixed  Op = "mixed"
)

// Load is one row of the table: what is asked of every peer.
type Load struct {
	Op       Op
	Size     int64         // of a block in bytes, at least 16
	Clients  int           // connections, each with one request at a time
	Lock     bool          // a lock is stored before, as restic does
	Duration time.Duration // the clock's time; it ends earlier when MaxOps are done
	MaxOps   int           // at most so many operations (and, for put, prepared names)
	Stored   int           // blocks that are there before the clock starts, for all but put
	// Beside, if set, is a load of other clients that runs meanwhile. Of it only
	// the errors count. The clients of this one then begin an operation as
	// often as makes half of the rate that they reach beside it, and a latency
	// counts from the moment when its operation was due.
	Beside *Load
}

// String names the load: "put 64KiB @16, no lock".
func (l Load) String() string {
	text := fmt.Sprintf("%s %s @%d", l.Op, sizeText(l.Size), l.Clients)
	if !l.Lock {
		text += ", no lock"
	}
	if l.Beside != nil {
		text += " at half load beside " + l.Beside.String()
	}
	return text
}

// rangeSize is how much OpRange reads at most.
const rangeSize = 64 << 10

// Standard is what `strandline bench serve` measures: small to large blocks,
// stored with and without a lock, and read; of the largest, parts, too; lists,
// deletes, all together; and small blocks stored while large ones are.
func Standard(duration time.Duration) []Load {
	var loads []Load
	for _, shape := range []struct {
		size            int64
		clients         int
		maxOps, readOps int
	}{{1 << 10, 32, 200_000, 5000}, {64 << 10, 16, 30_000, 2000}, {1 << 20, 8, 2000, 256}, {16 << 20, 5, 160, 32}} {
		put := Load{Op: OpPut, Size: shape.size, Clients: shape.clients, Lock: true, Duration: duration, MaxOps: shape.maxOps}
		bare, get := put, put
		bare.Lock = false
		get.Op, get.Stored, get.MaxOps = OpGet, shape.readOps, 10*shape.maxOps
		loads = append(loads, put, bare, get)
	}
	parts := loads[len(loads)-1]
	parts.Op, parts.MaxOps = OpRange, 200_000
	small, large := loads[0], loads[len(loads)-3]
	large.MaxOps = 200 * int(max(duration/time.Second, 1)) // in four thirds of the time: more than any peer stores
	small.Beside = &large
	return append(loads, parts, small,
		Load{Op: OpList, Size: 1 << 10, Clients: 4, Lock: true, Duration: duration, MaxOps: 100_000, Stored: 5000},
		Load{Op: OpDelete, Size: 1 << 10, Clients: 16, Lock: true, Duration: duration, MaxOps: 5000, Stored: 5000},
		Load{Op: OpMixed, Size: 64 << 10, Clients: 16, Lock: true, Duration: duration, MaxOps: 20_000, Stored: 2000},
	)
}

func (l Load) check() error {
	switch {
	case l.Size < stampSize:
		return fmt.Errorf("load %q: blocks have at least %d bytes", l, stampSize)
	case l.Clients < 1 || l.MaxOps < 1 || l.Duration <= 0:
		return fmt.Errorf("load %q: clients, operations and time must be positive", l)
	case l.Op != OpPut && l.Stored < 2:
		return fmt.Errorf("load %q: at least two blocks must be stored before", l)
	case l.Op == OpDelete && l.MaxOps > l.Stored:
		return fmt.Errorf("load %q: %d deletes of %d blocks", l, l.MaxOps, l.Stored)
	}
	switch l.Op {
	case OpPut, OpGet, OpRange, OpList, OpDelete, OpMixed:
	default:
		return fmt.Errorf("load %q: unknown operation", l)
	}
	if l.Beside != nil {
		return l.Beside.check()
	}
	return nil
}

// Plan is a whole run.
type Plan struct {
	Peers  []Peer // the first is the one that is compared with the others
	Loads  []Load
	Rounds int    // how often the peers take turns at each load
	Dir    string // an existing directory on the disk to be measured
	// Progress, if set, is called before each turn.
	Progress Progress
}

// Progress is told what is done next; nil is told nothing.
type Progress func(text string)

func (p Progress) say(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// Peer is something that stores blocks.
type Peer struct {
	Name string
	// Start makes it ready, with its data in dir (empty, removed later).
	Start func(ctx context.Context, dir string) (*Instance, error)
	Puts  bool // it does nothing else; other loads pass it by
}

// Instance is a started peer.
type Instance struct {
	// Client returns a client of its own for one goroutine.
	Client func() Client
	PID    int          // of the server's process, 0 if there is none
	Stop   func() error // ends the server; called once

	Repository string // as restic is told of it; "" for none
	Admin      string // address of the server's admin listener, "" for none
	Store      *Store // that was started with it, nil for none
}

// Client is one connection to a peer. It belongs to one goroutine. Names are
// 64 hex digits, bodies are as package content describes.
type Client interface {
	Lock(ctx context.Context) error
	Put(ctx context.Context, name string, b body) error
	// Get reads the block and compares it with b.
	Get(ctx context.Context, name string, b body) error
	// Range reads n bytes of the block from the one at on, and compares them.
	Range(ctx context.Context, name string, b body, at, n int64) error
	List(ctx context.Context) error
	Delete(ctx context.Context, name string) error
	Close() error
}

// Run measures every load against every peer. The report holds what was
// measured until an error, too.
func Run(ctx context.Context, plan Plan) (Report, error) {
	report := Report{Peers: peerNames(plan.Peers)}
	for _, load := range plan.Loads {
		if err := load.check(); err != nil {
			return report, err
		}
	}
	for _, load := range plan.Loads {
		row, err := measure(ctx, plan, load)
		if err != nil {
			row.Error = err.Error()
		}
		if len(row.turns) > 0 {
			report.Rows = append(report.Rows, row)
		}
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// measure measures one load against every peer. The row holds the turns until an
// error, too.
func measure(ctx context.Context, plan Plan, load Load) (row Row, err error) {
	row = Row{Load: load, Name: load.String(), Results: make([]Result, len(plan.Peers))}
	defer func() {
		for i := range row.Results {
			row.Results[i].finish()
		}
	}()
	for round, i := range turns(plan.Rounds, len(plan.Peers)) {
		peer := plan.Peers[i]
		if peer.Puts && load.Op != OpPut {
			continue
		}
		plan.Progress.say("%s: %s, round %d of %d", peer.Name, load, round, max(plan.Rounds, 1))
		part, err := turn(ctx, plan.Dir, peer, load)
		if part.Ops+part.Errors > 0 {
			row.Results[i].add(part)
			part.finish()
			row.turns = append(row.turns, turned{peer.Name, part, err == nil})
		}
		if err != nil {
			return row, fmt.Errorf("measure %q with %s: %w", load, peer.Name, err)
		}
	}
	return row, nil
}

// turns yields each round, counted from 1 to rounds, with each of the peers, every
// second round in reverse: whoever writes into memory that the one before has
// given back is quicker than whoever gets it new from the machine, so nobody is to
// come after the same one in all rounds. Even numbers of rounds are the fair ones.
func turns(rounds, peers int) iter.Seq2[int, int] {
	return func(yield func(round, peer int) bool) {
		for round := range max(rounds, 1) {
			for i := range peers {
				if round%2 == 1 {
					i = peers - 1 - i
				}
				if !yield(round+1, i) {
					return
				}
			}
		}
	}
}

func peerNames(peers []Peer) []string {
	names := make([]string, len(peers))
	for i, p := range peers {
		names[i] = p.Name
	}
	return names
}

// turn measures one load against one peer, in a fresh directory.
func turn(ctx context.Context, parent string, peer Peer, load Load) (part Result, err error) {
	err = peer.in(ctx, parent, func(_ string, instance *Instance) error {
		part, err = drive(ctx, instance, load)
		if err == nil && instance.PID > 0 {
			part.PeakRSS, err = PeakRSS(instance.PID)
		}
		return err
	})
	return part, err
}

// in starts the peer in a fresh directory below parent, lets work use it, and
// leaves nothing of it.
func (p Peer) in(ctx context.Context, parent string, work func(dir string, instance *Instance) error) (err error) {
	dir, err := os.MkdirTemp(parent, strings.Map(letters, p.Name)+"-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	instance, err := p.Start(ctx, dir)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	err = work(dir, instance)
	return errors.Join(err, instance.Stop())
}

// letters keeps what may stand in a directory's name.
func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}
