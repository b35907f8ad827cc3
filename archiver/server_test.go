// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// server is a state directory, and the process that may run on it.
type server struct {
	w      *world
	path   string
	place  *place
	bucket *buckettest.Faulty // its way to the bucket
	views  *views
	step   func(what string) // called between the local steps of a start, may be nil

	walLost    bool // its wal folder was removed
	staleLists bool // its bucket lists nothing new
	waivers    []archiver.Waiver

	archive     *archiver.Archive // of its last start
	sameProcess bool              // starts go on with archive, as those of one process do
	said        *slog.Logger      // of the shipper; nil: nobody hears it

	// While it runs:
	dir     *archiver.StateDir
	started *archiver.Started
	log     *eventlog.Log
	shipper *archiver.Shipper
	janitor *archiver.Janitor
	cancel  context.CancelFunc
	ended   chan struct{}
	shipErr error // of the shipper, valid when ended is closed
}

// first is a server on a fresh log.
func (w *world) first() *server {
	w.t.Helper()
	s := w.at(w.newPath())
	w.must(s.init())
	return s
}

// at is a server on the directory path, at a place of its own.
func (w *world) at(path string) *server {
	w.places++
	return w.atPlace(path, &place{number: w.places})
}

func (w *world) atPlace(path string, at *place) *server {
	s := &server{w: w, path: path, place: at, bucket: buckettest.NewFaulty(w.bucket)}
	s.views = openViews(path, s.stepped)
	return s
}

// GoString is how a failed history names the server.
func (s *server) GoString() string { return fmt.Sprintf("%s at %+v", s, *s.place) }

// String names the server.
func (s *server) String() string { return filepath.Base(s.path) }

// init makes the state directory and the log, or goes on with it.
func (s *server) init() error {
	dir, err := s.open()
	if errors.Is(err, archiver.ErrNoState) {
		dir, err = archiver.CreateStateDirAt(s.path, archiver.State{
			LogID: s.w.logID, DirID: archiver.NewID(), Archive: "memory:", Phase: archiver.PhaseInitialising,
		}, s.place.identify)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(archiver.Initialise(ctx, dir, s.bucket, "host", time.Now()), dir.Close())
}

func (s *server) open() (*archiver.StateDir, error) {
	return archiver.OpenStateDirAt(s.path, s.place.identify)
}

// recovered is a server on a directory that was rebuilt from the archive.
func (w *world) recovered() *server {
	w.t.Helper()
	entries := w.archive()
	var last archiver.ArchivedMark
	for _, key := range w.bucket.Keys() {
		if object, err := archiver.ParseLogKey(key); err == nil {
			last.Ordinal = object.Last
		}
	}
	last.Seq = entries[len(entries)-1].Event.Seq
	path := w.newPath()
	dir, err := archiver.CreateStateDir(path, archiver.State{
		LogID: w.logID, DirID: archiver.NewID(), Archive: "memory:", Phase: archiver.PhaseReady, Archived: &last, Clean: true,
	})
	w.must(err)
	w.must(dir.Close())
	return w.at(path)
}

// start starts the server on its directory.
func (s *server) start(takeOver bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return s.startWithin(ctx, takeOver)
}

func (s *server) startWithin(ctx context.Context, takeOver bool) (err error) {
	if s.dir, err = s.open(); err != nil {
		return err
	}
	if !s.sameProcess {
		s.archive = archiver.At(s.bucket, s.w.logID)
		s.archive.SetLogger(quiet())
	}
	archive := s.archive
	if s.started, err = s.run(ctx, archive, takeOver); err != nil {
		return errors.Join(err, s.dir.Close())
	}
	s.log, err = eventlog.Open(eventlog.Options{
		Dir: s.dir.Path("wal"), Spool: s.dir.Path("spool"), Head: s.started.Head, Last: s.started.Last, LastTime: s.started.LastTime,
		NextOrdinal: s.started.NextOrdinal, Local: s.started.Local, Archived: s.started.Archived,
		History: archiver.At(s.w.bucket, s.w.logID), // without faults: a test reads it at any time
	})
	if err != nil {
		return errors.Join(err, s.dir.Close())
	}
	s.serve(archive)
	return nil
}

// run does what a server does before it serves.
func (s *server) run(ctx context.Context, archive *archiver.Archive, takeOver bool) (*archiver.Started, error) {
	state := s.dir.State()
	wal, err := eventlog.ReadWAL(s.dir.Path("wal"), s.dir.Path("aside"), state.LogID, state.Bounds(s.views.position()))
	if err != nil {
		return nil, err
	}
	start := &archiver.Start{
		Dir: s.dir, Archive: archive, WAL: wal, Views: s.views, TakeOver: takeOver, Waivers: s.waivers,
		Host: filepath.Base(s.path), Now: s.now, Logger: slog.New(stepper{slog.DiscardHandler, s}),
	}
	return start.Run(ctx)
}

// now is what a start asks before it closes the tail and before it writes
// epoch_started.
func (s *server) now() time.Time {
	s.stepped("asked for the time")
	return time.Now()
}

func (s *server) stepped(what string) {
	if s.step != nil {
		s.step(what)
	}
}

// stepper is a log handler: what a start says marks the steps that it does.
type stepper struct {
	slog.Handler
	s *server
}

func (l stepper) Enabled(context.Context, slog.Level) bool { return true }

func (l stepper) Handle(_ context.Context, r slog.Record) error {
	l.s.stepped("said: " + r.Message)
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve ships in the background.
func (s *server) serve(archive *archiver.Archive) {
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	logger := cmp.Or(s.said, quiet())
	s.shipper = &archiver.Shipper{Archive: archive, Log: s.log, Dir: s.dir, Epoch: s.started.Head.Epoch, Shipped: s.started.Shipped, Logger: logger}
	s.janitor = &archiver.Janitor{Archive: archive, Log: s.log, Dir: s.dir, Logger: quiet(), Now: time.Now, MinAge: 10 * time.Minute}
	s.ended = make(chan struct{})
	s.w.running[s] = true
	go func() {
		defer close(s.ended)
		s.shipErr = s.shipper.Run(ctx)
	}()
}

// mustStart starts the server and checks what it begins with.
func (s *server) mustStart(takeOver bool) {
	s.w.t.Helper()
	s.w.must(s.start(takeOver))
	s.check()
}

// append commits an event and remembers that it was acknowledged.
func (s *server) append(ev eventlog.Event, content string) (eventlog.Seq, error) {
	var body *eventlog.Body
	if content != "" {
		var err error
		if body, err = s.log.Receive(context.Background(), strings.NewReader(content), int64(len(content)), 1<<20); err != nil {
			return 0, err
		}
		ev.Length, ev.Checksum = body.Length, body.Checksum
	}
	seq, err := s.log.Append(ev, body).Wait()
	if err != nil {
		return 0, err
	}
	s.w.committed[seq] = true
	return seq, s.views.CatchUp(context.Background(), toEnd{s.log}, eventlog.Range{})
}

// store commits a block.
func (s *server) store(content string) eventlog.Seq {
	s.w.t.Helper()
	seq, err := s.append(someBlock, content)
	s.w.must(err)
	return seq
}

// lock commits a client's lock of a machine.
func (s *server) lock(machine eventlog.Seq) eventlog.Seq {
	s.w.t.Helper()
	seq, err := s.append(eventlog.Event{Type: eventlog.BlockStored, Machine: machine, Kind: eventlog.KindLock, Block: make([]byte, 32)}, "lock")
	s.w.must(err)
	return seq
}

var (
	machine   = eventlog.MakeSeq(1, 9)
	someBlock = eventlog.Event{Type: eventlog.BlockStored, Machine: machine, Kind: eventlog.KindData, Block: make([]byte, 32)}
)

// wait waits until all that was committed is archived, and remembers it.
func (s *server) wait() {
	s.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s.w.must(s.waitWithin(ctx))
}

func (s *server) waitWithin(ctx context.Context) error {
	seq, _ := s.log.Committed()
	if err := s.log.WaitArchived(ctx, seq); err != nil {
		return err
	}
	for _, e := range s.entries() {
		if e.Event.Seq <= seq {
			s.w.archived[e.Event.Seq] = true
		}
	}
	return nil
}

// entries is the server's log.
func (s *server) entries() []eventlog.Entry {
	s.w.t.Helper()
	return s.w.collect(toEnd{s.log})
}

// kill ends the process as SIGKILL does: what its directory holds now is what
// the next start finds.
func (s *server) kill() {
	s.w.t.Helper()
	synctest.Wait()
	s.bucket.Away()
	image := s.w.copyDir(s.path)
	s.end()
	s.path, s.views = image, openViews(image, s.stepped)
	s.bucket, s.staleLists = buckettest.NewFaulty(s.w.bucket), false
}

// end stops the goroutines, whatever that does to the directory.
func (s *server) end() {
	delete(s.w.running, s)
	s.cancel()
	s.log.Fence(errors.New("killed"))
	<-s.ended
	if err := errors.Join(s.log.Close(false), s.dir.Close()); err == nil {
		s.w.t.Fatalf("a fenced log closed in order")
	}
}

// stop ends in order: everything archived, the last object with the clean-end
// flag.
func (s *server) stop() {
	s.w.t.Helper()
	s.store("last")
	s.w.must(s.log.Close(true))
	<-s.ended
	s.w.must(s.shipErr)
	for _, e := range s.entries() {
		s.w.archived[e.Event.Seq] = true
	}
	s.cancel()
	delete(s.w.running, s)
	local := s.log.Local()
	last := local[len(local)-1]
	s.w.must(s.dir.Update(func(state *archiver.State) {
		state.Clean, state.Archived = true, &archiver.ArchivedMark{Ordinal: last.Ordinal, Seq: last.Trailer.Last}
	}))
	s.w.must(s.dir.Close())
}

// clone is a server on a copy of the directory as it is now.
func (s *server) clone() *server {
	s.w.t.Helper()
	synctest.Wait()
	clone := s.w.at(s.w.copyDir(s.path))
	clone.walLost = s.walLost
	return clone
}

// twin is a server on the directory as it is now, of which nothing tells that
// it is a copy: a snapshot of the whole disk or machine.
func (s *server) twin() *server {
	s.w.t.Helper()
	synctest.Wait()
	same := *s.place
	twin := s.w.atPlace(s.w.copyDir(s.path), &same)
	twin.walLost = s.walLost
	return twin
}

func (w *world) copyDir(from string) string {
	w.t.Helper()
	to := w.newPath()
	w.must(os.CopyFS(to, os.DirFS(from)))
	return to
}

// check checks the log that a server has, its views, and that no acknowledged
// event is missing from it unless history says so.
func (s *server) check() {
	s.w.t.Helper()
	s.w.archive()
	entries := s.entries()
	s.w.chain(s.path, entries)
	there, lossy := map[eventlog.Seq]bool{}, eventlog.Seq(0)
	for _, e := range entries {
		there[e.Event.Seq] = true
		if e.Event.Type == eventlog.EpochStarted && e.Event.Lossy {
			lossy = e.Event.Seq
		}
	}
	for seq := range s.w.archived {
		if !there[seq] {
			s.w.t.Fatalf("seq %s was acknowledged as archived and is not in this server's log", seq)
		}
	}
	for seq := range s.w.committed {
		if !there[seq] && seq > lossy && !s.w.forgiven[seq] && !s.w.copied {
			s.w.t.Fatalf("seq %s was acknowledged as committed, and no later epoch_started says that it was lost", seq)
		}
	}
	if got, want := s.views.position(), entries[len(entries)-1].Event.Seq; got != want {
		s.w.t.Fatalf("the views stand at %s, the log at %s", got, want)
	}
	for i, applied := range s.views.applied {
		if !bytes.Equal(applied.Raw, entries[i].Raw) {
			s.w.t.Fatalf("the views have applied %s where the log has %s", applied.Event.Seq, entries[i].Event.Seq)
		}
	}
}

// epochStarted is the event that the server's start wrote.
func (s *server) epochStarted() eventlog.Event {
	s.w.t.Helper()
	for _, e := range s.entries() {
		if e.Event.Seq == s.started.Last {
			return e.Event
		}
	}
	s.w.t.Fatalf("the log lacks %s", s.started.Last)
	return eventlog.Event{}
}

// aside lists what was set aside.
func (s *server) aside() []string {
	s.w.t.Helper()
	names, err := os.ReadDir(filepath.Join(s.path, "aside"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.w.t.Fatalf("%v", err)
	}
	var list []string
	for _, name := range names {
		list = append(list, name.Name())
	}
	return list
}
