// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/wal"

	"github.com/strandline-project/strandline/internal/testkit/hostile"
)

// journal records what a log does to its files, in order, so that a test can
// make the disk of every moment, with what was not synced by then damaged.
type journal struct {
	mu     sync.Mutex
	root   string // of the state
	ops    []diskOp
	over   bool          // nothing is recorded any more
	events map[Seq]Entry // all that were ever committed, acknowledged or not
	blocks map[Seq][]byte
	late   bool // closing a generation waits for commits in the next one
	writes int  // batches of frames so far
	moved  *sync.Cond
}

type diskOp struct {
	kind string // "create", "write", "sync", "ack"
	file string // below wal
	data []byte
	seq  Seq // ack: every event up to it was acknowledged
}

func newJournal(root string, late bool) *journal {
	j := &journal{root: root, late: late, events: map[Seq]Entry{}, blocks: map[Seq][]byte{}}
	j.moved = sync.NewCond(&j.mu)
	return j
}

func (j *journal) add(op diskOp) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.over {
		j.ops = append(j.ops, op)
	}
}

// files is createFiles under the journal's eyes.
func (j *journal) files(dir string) (frameLog, payloadFile, error) {
	frames, payload, err := createFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	name := filepath.Base(dir)
	j.add(diskOp{kind: "create", file: name})
	return &journalFrames{frameLog: frames, j: j, path: filepath.Join(dir, segmentName), file: filepath.Join(name, segmentName)},
		&journalPayload{payloadFile: payload, j: j, file: filepath.Join(name, payloadName)}, nil
}

type journalFrames struct {
	frameLog
	j          *journal
	path, file string
	size       int
}

func (f *journalFrames) WriteBatch(b *wal.Batch) error {
	if err := f.frameLog.WriteBatch(b); err != nil {
		return err
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	f.j.add(diskOp{kind: "write", file: f.file, data: data[f.size:]})
	f.j.add(diskOp{kind: "sync", file: f.file})
	f.size = len(data)
	f.j.mu.Lock()
	f.j.writes++
	f.j.moved.Broadcast()
	f.j.mu.Unlock()
	return nil
}

type journalPayload struct {
	payloadFile
	j    *journal
	file string
}

func (f *journalPayload) Write(p []byte) (int, error) {
	n, err := f.payloadFile.Write(p)
	f.j.add(diskOp{kind: "write", file: f.file, data: bytes.Clone(p)})
	if f.j.late && bytes.Contains(p, []byte(trailerMagic)) {
		f.j.waitForCommits(2)
	}
	return n, err
}

// waitForCommits returns after n more batches, or soon if there are none: the
// generation being closed may be the last.
func (j *journal) waitForCommits(n int) {
	timer := time.AfterFunc(20*time.Millisecond, func() {
		j.mu.Lock()
		j.writes += n
		j.moved.Broadcast()
		j.mu.Unlock()
	})
	defer timer.Stop()
	j.mu.Lock()
	defer j.mu.Unlock()
	for until := j.writes + n; j.writes < until; {
		j.moved.Wait()
	}
}

func (f *journalPayload) Sync() error {
	err := f.payloadFile.Sync()
	f.j.add(diskOp{kind: "sync", file: f.file})
	return err
}

func (f *journalPayload) MarkClosed(trailer []byte) error {
	err := f.payloadFile.MarkClosed(trailer)
	file := filepath.Join(filepath.Dir(f.file), closedName)
	f.j.add(diskOp{kind: "write", file: file, data: bytes.Clone(trailer)})
	f.j.add(diskOp{kind: "sync", file: file})
	return err
}

// record lets a log live and returns its journal: random batches of events
// with and without payloads, some of them forgeries, some pauses long enough for a seal.
func record(t *testing.T, seed uint64) *journal {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	s := fastState(t)
	j := newJournal(s.root, seed%3 == 0)
	l := s.open(func(o *Options) {
		o.files = j.files
		o.MaxPayload = 20<<10 + random.Uint64N(100<<10)
		o.MaxEvents = 10 + random.IntN(20)
	})
	for range 4 + random.IntN(12) {
		var last *Pending
		for range 1 + random.IntN(5) {
			last = j.append(t, l, random)
		}
		if random.IntN(3) > 0 {
			j.add(diskOp{kind: "ack", seq: committed(t, last)})
		}
		if random.IntN(6) == 0 {
			time.Sleep(sealAfter + 10*time.Millisecond) // the seal is what this is about
		}
	}
	j.add(diskOp{kind: "ack", seq: committed(t, l.Append(noteEvent(0), nil))})
	if random.IntN(2) == 0 {
		must(t, l.Close(random.IntN(2) == 0))
	}
	j.mu.Lock()
	j.over = true
	j.mu.Unlock()
	j.learn(t, l)
	must(t, l.Close(false))
	return j
}

func (j *journal) append(t *testing.T, l *Log, random *rand.Rand) *Pending {
	switch random.IntN(6) {
	case 0, 1:
		return l.Append(noteEvent(random.IntN(26)), nil)
	case 2: // a client that means harm
		return store(t, l, hostile.Any(random, factsOf(t, l)).Bytes)
	}
	return store(t, l, content(random.Uint64(), random.IntN(1+random.IntN(90_000))))
}

func (j *journal) learn(t *testing.T, l *Log) {
	for _, e := range collect(t, l, FirstSeq) {
		j.events[e.Event.Seq] = e
		j.blocks[e.Event.Seq] = readBlock(t, l, e)
	}
}
