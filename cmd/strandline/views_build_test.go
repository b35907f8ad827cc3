// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/projector"
)

// builder is a state directory whose views are opened, perhaps anew, and built.
type builder struct {
	t      *testing.T
	data   string
	bucket *buckettest.Faulty
	views  *viewSet
}

func newBuilder(t *testing.T, spec, data string) *builder {
	t.Helper()
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{t: t, data: data, bucket: buckettest.NewFaulty(opened)}
	b.open()
	t.Cleanup(func() {
		if err := b.views.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// open opens the views as another process would.
func (b *builder) open() {
	b.t.Helper()
	if b.views != nil {
		if err := b.views.Close(); err != nil {
			b.t.Fatal(err)
		}
	}
	views, err := openViews(filepath.Join(b.data, "views"), projector.Live, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	views.archive, views.lookUp = b.archive(), 0
	b.views = views
}

func (b *builder) archive() *archiver.Archive {
	b.t.Helper()
	state, err := archiver.ReadState(b.data)
	if err != nil {
		b.t.Fatal(err)
	}
	return archiver.At(b.bucket, state.LogID)
}

// lose loses views, all when none is named.
func (b *builder) lose(names ...string) {
	b.t.Helper()
	if err := b.views.Close(); err != nil {
		b.t.Fatal(err)
	}
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(b.data, "views", name)); err != nil {
			b.t.Fatal(err)
		}
	}
	b.open()
}

// rows are the digests of the views, recomputed from their rows.
func (b *builder) rows() map[string]projector.Digest {
	b.t.Helper()
	rows := map[string]projector.Digest{}
	for _, view := range b.views.views() {
		_, digest, err := view.Recompute(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		rows[view.Name()] = digest
	}
	return rows
}

// same checks that the views are those that were lost, and that nothing of how
// they were built is left.
func (b *builder) same(what string, want map[string]projector.Digest, at eventlog.Seq) {
	b.t.Helper()
	for name, digest := range b.rows() {
		if digest != want[name] {
			b.t.Errorf("%s: the %s view has digest %s, want %s", what, name, digest, want[name])
		}
	}
	if applied := b.views.Applied(); applied != at {
		b.t.Errorf("%s: the views stand at %s, want %s", what, applied, at)
	}
	if left := b.begun(); len(left) != 0 {
		b.t.Errorf("%s: left is %v", what, left)
	}
}

func (b *builder) begun() []string {
	b.t.Helper()
	left, err := filepath.Glob(filepath.Join(b.data, "views", buildingPrefix+"*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return left
}

// start runs the start procedure.
func (b *builder) start() (*archiver.Started, error) {
	b.t.Helper()
	dir, err := archiver.OpenStateDir(b.data)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() {
		if err := dir.Close(); err != nil {
			b.t.Error(err)
		}
	}()
	wal, err := readWAL(dir, b.views.positions()...)
	if err != nil {
		b.t.Fatal(err)
	}
	start := archiver.Start{Dir: dir, Archive: b.views.archive, WAL: wal, Views: b.views, TakeOver: true, Host: "test", Now: time.Now, Logger: b.views.log}
	return start.Run(b.t.Context())
}

// Views that are empty are built from the archive, each test with a copy of one.
func TestEmptyViewsAreBuiltFromTheArchive(t *testing.T) {
	spec, data := readArchive(t)
	for name, test := range map[string]func(t *testing.T, spec, data string){
		"and have the rows that they had":                  emptyViewsAreBuilt,
		"which is read once, before the claim":             aStartReadsTheArchiveOnce,
		"and an event of a later version is met in time":   aLaterVersionIsMetBeforeTheClaim,
		"and a build that is killed goes on":               aBuildThatIsKilledGoesOn,
		"and one that is killed between their places, too": aBuildThatIsKilledBetweenPlacesGoesOn,
		"when they have applied what is not history, too":  viewsAheadOfTheLogAreBuilt,
		"and what it lacks is left to the local log":       whatTheArchiveLacksIsLeft,
	} {
		t.Run(name, func(t *testing.T) {
			archive, state := filepath.Join(t.TempDir(), "archive"), filepath.Join(t.TempDir(), "data")
			if err := errors.Join(os.CopyFS(archive, os.DirFS(strings.TrimPrefix(spec, "dir:"))), os.CopyFS(state, os.DirFS(data))); err != nil {
				t.Fatal(err)
			}
			test(t, "dir:"+archive, state)
		})
	}
}

// Whatever views are empty, they are built from the archive, and have the rows
// that they had.
func emptyViewsAreBuilt(t *testing.T, spec, data string) {
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	for _, lost := range [][]string{nil, {"block"}, {"machine"}} {
		b.lose(lost...)
		told := 0
		b.views.building = func() { told++ }
		if err := b.views.Build(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.same("lost "+strings.Join(lost, ""), want, at)
		if err := b.views.Build(t.Context()); err != nil || told != 1 {
			t.Errorf("built %d times: %v", told, err)
		}
	}
}

// A start reads the archive once for views that it has lost, and before it
// claims anything.
func aStartReadsTheArchiveOnce(t *testing.T, spec, data string) {
	if err := os.RemoveAll(filepath.Join(strings.TrimPrefix(spec, "dir:"), "index")); err != nil { // a read for each object
		t.Fatal(err)
	}
	b := newBuilder(t, spec, data)
	want := b.rows()
	once := b.bucket.Calls(buckettest.Get)
	for _, err := range b.archive().Follow(t.Context(), eventlog.FirstSeq) {
		if err != nil {
			t.Fatal(err)
		}
	}
	once = b.bucket.Calls(buckettest.Get) - once
	b.lose()
	before, claimed := b.bucket.Calls(buckettest.Get), 0
	b.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Put && strings.HasPrefix(key, "epoch/") {
			claimed = b.bucket.Calls(buckettest.Get) - before
		}
		return nil
	}})
	if _, err := b.start(); err != nil {
		t.Fatal(err)
	}
	all := b.bucket.Calls(buckettest.Get) - before
	if behind := all - claimed; behind > once/4 || all > once*3/2 {
		t.Errorf("%d gets read the archive; a start took %d before its claim and %d behind it", once, claimed, behind)
	}
	for name, digest := range b.rows() {
		if digest != want[name] && name == "block" { // epoch_started is none of its
			t.Errorf("the %s view has digest %s, want %s", name, digest, want[name])
		}
	}
}

// An event that this build does not know is met while lost views are built:
// nothing is claimed.
func aLaterVersionIsMetBeforeTheClaim(t *testing.T, spec, data string) {
	extendArchiveBy(t, spec, func(eventlog.Seq) []eventlog.Event { return []eventlog.Event{{Type: 1000}} })
	extendArchive(t, spec, "somebody")
	b := newBuilder(t, spec, data)
	b.lose()
	puts := b.bucket.Calls(buckettest.Put)
	_, err := b.start()
	if !errors.Is(err, eventlog.ErrUnknownType) || exitCode(withCode(classify(err), err)) != exitUsage || b.bucket.Calls(buckettest.Put) != puts {
		t.Errorf("%v, %d puts", err, b.bucket.Calls(buckettest.Put)-puts)
	}
}

// Killed at any read of the archive, a build goes on where it was, and comes to
// the same rows. What it left may be of other views, or damaged.
func aBuildThatIsKilledGoesOn(t *testing.T, spec, data string) {
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	kill := func(at int64) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var calls atomic.Int64
		b.bucket.Set(buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
			if calls.Add(1) == at {
				cancel()
			}
			return ctx.Err()
		}})
		defer b.bucket.Set(buckettest.Hooks{})
		return b.views.Build(ctx)
	}
	ended := false
	for call := int64(1); !ended; call++ {
		b.lose()
		err := kill(call)
		if ended = err == nil; !ended {
			b.open()
			if err := b.views.Build(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		b.same("killed", want, at)
		if call == 1 && ended {
			t.Error("it was not killed")
		}
	}
	for what, spoil := range map[string]func(dir string) error{
		"a damaged note": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "scratch", "inputs.json"), []byte("{}"), 0o600)
		},
		"a note that is missing": func(dir string) error { return os.Remove(filepath.Join(dir, "scratch", "beginning.json")) },
		"another version's": func(dir string) error {
			return os.Rename(dir, filepath.Join(filepath.Dir(dir), buildingPrefix+"block.0-machine.0"))
		},
	} {
		b.lose()
		if err := b.killedWith(kill); err != nil {
			t.Fatal(err)
		}
		if err := spoil(b.begun()[0]); err != nil {
			t.Fatal(err)
		}
		b.open()
		if err := b.views.Build(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		b.same(what, want, at)
	}
}

// killedWith kills a build once it has noted what it is made from.
func (b *builder) killedWith(kill func(at int64) error) error {
	for call := int64(1); ; call++ {
		err := kill(call)
		if err == nil {
			return errors.New("it was not killed in time")
		}
		if begun := b.begun(); len(begun) == 1 {
			if _, err := os.Stat(filepath.Join(begun[0], "scratch", "inputs.json")); err == nil {
				return nil
			}
		}
		b.open()
	}
}

// A crash while the views are put into their places leaves one that is built
// and one that is built again.
func aBuildThatIsKilledBetweenPlacesGoesOn(t *testing.T, spec, data string) {
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	for _, first := range []string{"machine", "block"} {
		b.lose()
		empty := b.views.views()
		dir := filepath.Join(b.views.dir, buildingName(empty))
		for _, view := range empty {
			if err := b.views.forget(view); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.views.recoverIn(t.Context(), dir, empty); err != nil {
			t.Fatal(err)
		}
		if err := projector.Replace(b.views.engine, filepath.Join(dir, first), b.views.path(first)); err != nil {
			t.Fatal(err)
		}
		b.open()
		if position := b.views.positions(); (position[0] == 0) == (position[1] == 0) {
			t.Errorf("the views stand at %v", position)
		}
		if err := b.views.Build(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.same("after "+first, want, at)
	}
}

// Views that have applied what is not history are built, not looked up.
func viewsAheadOfTheLogAreBuilt(t *testing.T, spec, data string) {
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	told := 0
	b.views.building = func() { told++ }
	archive := b.archive()
	if err := b.views.CatchUp(t.Context(), archive, eventlog.Range{First: at, Last: at}); err != nil {
		t.Fatal(err)
	}
	b.same("stale", want, at)
	if told != 1 {
		t.Errorf("the views were built %d times", told)
	}
}

// A server that stops takes a checkpoint of its views: those that are lost
// later begin from it.
func TestLostViewsBeginFromACheckpoint(t *testing.T) {
	spec, data := readArchive(t)
	log := archived(t, spec)
	serveUntil(t, data, func() bool { return len(archived(t, spec)) > len(log)+1 }) // more than epoch_started: it serves
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	b.lose()
	before := b.bucket.Calls(buckettest.Get)
	gets := map[string]int{}
	b.bucket.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Get && strings.HasPrefix(key, "checkpoint/file/") {
			gets[key]++
		}
		return nil
	}})
	if err := b.views.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.same("from a checkpoint", want, at)
	if len(gets) == 0 {
		t.Errorf("none of %d gets was of a checkpoint", b.bucket.Calls(buckettest.Get)-before)
	}
}

// What the archive lacks is no end of a start: the local log may have it. The
// views are brought up as far as there are events.
func whatTheArchiveLacksIsLeft(t *testing.T, spec, data string) {
	b := newBuilder(t, spec, data)
	lost := archiver.Shipped(300).Key()
	b.bucket.Set(buckettest.Hooks{
		Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op != buckettest.List && key == lost {
				return archiver.ErrNotFound
			}
			return nil
		},
		Hide: func(key string) bool { return key == lost },
	})
	b.lose()
	if err := b.views.Build(t.Context()); err != nil || b.views.Applied() != 0 {
		t.Errorf("views at %s: %v", b.views.Applied(), err)
	}
	b.bucket.Set(buckettest.Hooks{})
	if err := b.views.CatchUp(t.Context(), b.archive(), eventlog.Range{}); err != nil {
		t.Fatal(err)
	}
	if b.views.Applied() == 0 {
		t.Error("the views stand at the beginning")
	}
}

// A violation that the log's waivers let go is gone on past; another one ends
// the start before its claim.
func TestABuildOfViewsHeedsWaivers(t *testing.T) {
	spec, data := brokenArchive(t), filepath.Join(t.TempDir(), "data")
	if _, err := execute(t, "recover", "--data", data, "--archive", spec, "--waive", "account-opened-once@1.4", "--waive", "account-opened-once@1.6", "--admin", ""); err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t, spec, data)
	want, at := b.rows(), b.views.Applied()
	b.lose()
	violation := (*projector.Violation)(nil)
	puts := b.bucket.Calls(buckettest.Put)
	if _, err := b.start(); !errors.As(err, &violation) || b.bucket.Calls(buckettest.Put) != puts {
		t.Errorf("without a waiver: %v", err)
	}
	state, err := archiver.ReadState(data)
	if err != nil {
		t.Fatal(err)
	}
	b.views.waivers = func() []archiver.Waiver { return state.Waivers }
	if err := b.views.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.same("waived", want, at)
}

// While views are built, clients hear that, and status shows how far they are.
func TestAServerThatBuildsItsViewsSaysSo(t *testing.T) {
	spec, data := readArchive(t)
	if err := os.RemoveAll(filepath.Join(data, "views")); err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.Data, cfg.Archive, cfg.NoAuth = data, spec, true
	cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
	a := newApp(&cfg, slog.New(slog.DiscardHandler))
	if err := a.open(t.Context()); err != nil {
		t.Fatal(errors.Join(err, a.closeAll()))
	}
	defer func() {
		if err := a.closeAll(); err != nil {
			t.Error(err)
		}
	}()
	opened, err := openBucket(spec, false)
	if err != nil {
		t.Fatal(err)
	}
	slow, opens := buckettest.NewFaulty(opened), make(chan struct{})
	a.views.lookUp, a.views.archive = 0, a.archive.Through(slow)
	slow.Set(holdsGets(opens, func(string) bool { return strings.HasPrefix(a.progress.Snapshot().Phase, "project") }))
	ended := make(chan error, 1)
	go func() { ended <- a.views.Build(t.Context()) }()
	eventually(t, "status shows the phase", func() bool {
		status := a.Status()
		return status.Mode == httpapi.ModeStarting && strings.Contains(status.Reason, "are being built") && status.Progress != nil && strings.HasPrefix(status.Progress.Phase, "project")
	})
	if err := a.door.refusal(); !strings.Contains(err.Error(), "are being built") {
		t.Errorf("clients hear: %v", err)
	}
	close(opens)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
